import numpy as np
from keras import Sequential, callbacks
from keras.layers import Dense
from keras.utils import to_categorical

# In place of keras.datasets.mnist: no network here.
x_train, y_train = np.random.rand(500, 784), to_categorical(np.random.randint(10, size=500), 10)
x_test, y_test = np.random.rand(100, 784), to_categorical(np.random.randint(10, size=100), 10)

model = Sequential([Dense(10, activation="relu"), Dense(10, activation="softmax")])
model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
watchers = [
    # As it stands in the answer; Keras 3 wants a path that ends in .keras.
    callbacks.ModelCheckpoint("model_weights", monitor="val_loss", save_best_only=True),
    callbacks.EarlyStopping(monitor="val_loss", patience=5),
]
model.fit(x_train, y_train, epochs=20, validation_data=(x_test, y_test), callbacks=watchers)
