import numpy as np
from keras import Sequential, callbacks
from keras.layers import LSTM, Dense

x, y = np.random.randn(96, 5, 3), np.random.randn(96, 1)
x_val, y_val = np.random.randn(40, 5, 3), np.random.randn(40, 1)

model = Sequential([LSTM(50), Dense(1)])
model.compile(optimizer="adam", loss="mse")
stopping = callbacks.EarlyStopping(monitor="val_loss", patience=10, restore_best_weights=True)
for _ in range(20):
    model.fit(x, y, epochs=1, batch_size=32, validation_data=(x_val, y_val), callbacks=[stopping], verbose=0)
