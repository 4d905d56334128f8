import numpy as np
from keras import Sequential, callbacks, optimizers
from keras.layers import LSTM, Dense

x, y = np.random.randn(96, 5, 3), np.random.randn(96, 1)
x_val, y_val = np.random.randn(40, 5, 3), np.random.randn(40, 1)

model = Sequential([LSTM(50), Dense(1)])


def schedule(epoch, rate):
    return rate if epoch < 50 else rate * 0.1


# As it stands in the answer; a callback is no learning rate.
model.compile(optimizer=optimizers.Adam(callbacks.LearningRateScheduler(schedule)), loss="mse")
for _ in range(100):
    model.fit(x, y, epochs=1, batch_size=32, validation_data=(x_val, y_val), verbose=0)
