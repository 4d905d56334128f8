import numpy as np
from keras import Sequential, callbacks, optimizers
from keras.layers import Dense

x, y = np.random.randn(1000, 10), np.random.randint(2, size=1000)

model = Sequential([Dense(128, activation="relu"), Dense(1, activation="sigmoid")])
model.compile(optimizer=optimizers.Adam(1e-3), loss="binary_crossentropy", metrics=["accuracy"])
stopping = callbacks.EarlyStopping(monitor="val_loss", patience=10, restore_best_weights=True)
model.fit(x[:800], y[:800], epochs=100, validation_data=(x[800:], y[800:]), callbacks=[stopping], verbose=0)
