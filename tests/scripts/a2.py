import numpy as np
from keras import Sequential
from keras.layers import Dense, Dropout, Flatten

# In place of keras.datasets.mnist: no network here.
x_train, y_train = np.random.rand(500, 28, 28), np.random.randint(10, size=500)
x_test, y_test = np.random.rand(100, 28, 28), np.random.randint(10, size=100)

model = Sequential([Flatten(), Dense(128, activation="relu"), Dropout(0.2), Dense(10, activation="softmax")])
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, epochs=1)
print(model.evaluate(x_test, y_test))
model.fit(x_train, y_train, epochs=10)
print(model.evaluate(x_test, y_test))
