import random

import numpy as np
from keras import Sequential
from keras.layers import Dense

random.seed(42)
np.random.seed(42)

x, y = np.random.rand(1000, 10), np.random.randint(2, size=(1000, 1))

model = Sequential([Dense(64, activation="relu"), Dense(1, activation="sigmoid")])
model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
for epoch in range(5):
    for i in range(len(x) // 32):
        loss, accuracy = model.train_on_batch(x[32 * i : 32 * (i + 1)], y[32 * i : 32 * (i + 1)])
    print(epoch, loss, accuracy, model.test_on_batch(x[-8:], y[-8:]))
