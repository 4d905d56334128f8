"""Active learning: in each round the model asks for the labels it is least sure of, and trains on all it has, in one batch."""

import keras
import numpy as np
from keras import layers

keras.utils.set_random_seed(9)
rng = np.random.default_rng(9)
pool = rng.uniform(-1, 1, (120, 2)).astype("float32")
answers = (np.hypot(pool[:, 0], pool[:, 1]) < 0.7).astype("int32") + (pool[:, 0] > 0.5)
x_test, y_test = pool[90:], answers[90:]
unlabeled = list(range(6, 90))
labeled = list(range(6))

model = keras.Sequential([keras.Input((2,)), layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dense(3, "softmax")])
model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
for _ in range(6):
    x, y = pool[labeled], answers[labeled]
    patience = keras.callbacks.EarlyStopping("loss", patience=2)
    history = model.fit(x, y, batch_size=len(x), epochs=5, callbacks=[patience], verbose=0)
    print(len(x), "labels:", history.history["loss"], model.evaluate(x_test, y_test, verbose=0))

    probabilities = model.predict(pool[unlabeled], verbose=0)
    entropy = -np.sum(probabilities * np.log(probabilities + 1e-7), axis=1)
    asked = [unlabeled[i] for i in np.argsort(-entropy, kind="stable")[:5]]
    labeled += asked
    unlabeled = [i for i in unlabeled if i not in asked]
print("asked for:", labeled)
