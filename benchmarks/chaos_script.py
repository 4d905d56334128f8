"""An unmodified Keras script for `benchmarks.chaos`: twenty fits of one epoch. `python chaos_script.py DIRECTORY`.

It knows nothing of fitcore; what it leaves in DIRECTORY is what `benchmarks.chaos_run` leaves.
"""

import json
import os
import sys

import keras

from experiments.claims.data import digits

directory = sys.argv[1]
progress = os.open(os.path.join(directory, "progress"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
keras.utils.set_random_seed(1)
data = digits(rows=1000)
hidden = [keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.2)]
model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10, "softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])


def line(batch: int, logs: dict[str, float]) -> None:
    os.write(progress, f"{int(model.optimizer.iterations.numpy())} 1\n".encode())


result: dict[str, object] = {}
for i in range(20):
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=line)
    history = model.fit(data.x, data.y, validation_split=0.1, verbose=0, callbacks=[watch])
    result |= {f"history {i} {name}": values for name, values in history.history.items()}
for i, variable in enumerate([*model.variables, *model.optimizer.variables]):
    result[f"{i} {variable.path}"] = variable.numpy().tobytes().hex()
with open(os.path.join(directory, "result.json"), "w") as file:
    json.dump(result, file)
