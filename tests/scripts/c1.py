import numpy as np
from keras import Sequential
from keras.layers import LSTM, Dense

x, y = np.random.randn(96, 5, 3), np.random.randn(96, 1)
x_val, y_val = np.random.randn(40, 5, 3), np.random.randn(40, 1)

model = Sequential([LSTM(50), Dense(1)])
model.compile(optimizer="adam", loss="mse")
model.fit(x, y, epochs=20, batch_size=32, validation_data=(x_val, y_val), verbose=0)
