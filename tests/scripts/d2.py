import numpy as np
from keras import Sequential
from keras.layers import Dense

x, y = np.random.rand(1000, 10), np.random.randint(2, size=(1000, 1))

model = Sequential([Dense(64, activation="relu"), Dense(1, activation="sigmoid")])
model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
model.fit(x, y, batch_size=32, epochs=5, shuffle=False)
model.fit(x, y, batch_size=32, epochs=5, shuffle=True)
