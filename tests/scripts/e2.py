import numpy as np
from keras import Sequential, optimizers
from keras.layers import Dense

x, y = np.random.randn(1000, 10), np.random.randint(2, size=1000)

model = Sequential([Dense(128, activation="relu"), Dense(1, activation="sigmoid")])
model.compile(optimizer=optimizers.Adam(1e-3), loss="binary_crossentropy", metrics=["accuracy"])
best, waited = np.inf, 0
for epoch in range(100):
    history = model.fit(x[:800], y[:800], epochs=1, validation_data=(x[800:], y[800:]), verbose=0)
    val_loss = history.history["val_loss"][0]
    if val_loss < best:
        best, waited = val_loss, 0
    else:
        waited += 1
    if waited > 10:
        print("stopped early after epoch", epoch)
        break
