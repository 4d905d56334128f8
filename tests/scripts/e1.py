import numpy as np
from keras import Sequential, optimizers
from keras.layers import Dense

x, y = np.random.randn(1000, 10), np.random.randint(2, size=1000)

model = Sequential([Dense(128, activation="relu"), Dense(1, activation="sigmoid")])
model.compile(optimizer=optimizers.Adam(1e-3), loss="binary_crossentropy", metrics=["accuracy"])
for _ in range(20):
    model.fit(x, y, epochs=1, verbose=0)
