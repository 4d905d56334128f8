import numpy as np
from keras import Sequential, optimizers
from keras.layers import Dense
from keras.utils import to_categorical

# In place of keras.datasets.mnist: no network here.
x_train, y_train = np.random.rand(500, 784), to_categorical(np.random.randint(10, size=500), 10)
x_test, y_test = np.random.rand(100, 784), to_categorical(np.random.randint(10, size=100), 10)

model = Sequential([Dense(10, activation="relu"), Dense(10, activation="softmax")])
model.compile(optimizer=optimizers.SGD(0.01), loss="categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, epochs=10, validation_data=(x_test, y_test))
