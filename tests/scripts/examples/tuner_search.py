"""A random search as a tuner makes it: many models, each trained more than once, its best weights kept in files and loaded."""

import copy
import pathlib
import random

import keras
import numpy as np
from keras import layers


class HyperParameters:
    def __init__(self, draw):
        self.draw = draw
        self.values = {}

    def Choice(self, name, values):
        return self.values.setdefault(name, self.draw.choice(values))

    def Int(self, name, min_value, max_value, step=1):
        return self.values.setdefault(name, self.draw.randrange(min_value, max_value + 1, step))

    def Float(self, name, min_value, max_value):
        return self.values.setdefault(name, min_value * (max_value / min_value) ** self.draw.random())


class RandomSearch:
    def __init__(self, build, objective, max_trials, executions_per_trial, seed, directory):
        self.build = build
        self.objective = objective
        self.max_trials = max_trials
        self.executions_per_trial = executions_per_trial
        self.draw = random.Random(seed)
        self.directory = pathlib.Path(directory)
        self.trials = []

    def search(self, *args, callbacks=(), **kwargs):
        for number in range(self.max_trials):
            hp = HyperParameters(self.draw)
            scores = []
            for execution in range(self.executions_per_trial):
                keras.backend.clear_session()
                model = self.build(hp)
                path = self.directory / f"trial_{number}_{execution}.weights.h5"
                keep = keras.callbacks.ModelCheckpoint(path, self.objective, save_best_only=True, save_weights_only=True)
                history = model.fit(*args, callbacks=[*copy.deepcopy(callbacks), keep], **kwargs)
                scores.append((min(history.history[self.objective]), str(path)))
            self.trials.append((float(np.mean([score for score, _ in scores])), hp.values, min(scores)[1]))
            print("trial", number, hp.values, scores)

    def best_model(self):
        _, values, path = min(self.trials, key=lambda trial: trial[0])
        hp = HyperParameters(self.draw)
        hp.values = dict(values)
        model = self.build(hp)
        model.load_weights(path)
        return model


def build(hp):
    model = keras.Sequential([keras.Input((4,))])
    for i in range(hp.Int("layers", 1, 2)):
        model.add(layers.Dense(hp.Int(f"units_{i}", 4, 12, step=4), hp.Choice("activation", ["relu", "tanh", "elu", "silu"])))
        if hp.Choice("dropout", [True, False]):
            model.add(layers.Dropout(0.2))
    model.add(layers.Dense(1))
    optimizer = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[hp.Choice("optimizer", ["adam", "sgd"])]
    model.compile(optimizer(hp.Float("learning_rate", 1e-3, 1e-1)), "mse", metrics=["mae"])
    return model


keras.utils.set_random_seed(10)
x = np.random.normal(size=(70, 4)).astype("float32")
y = (np.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3]).astype("float32")
tuner = RandomSearch(build, "val_loss", max_trials=3, executions_per_trial=2, seed=10, directory="search")
stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
tuner.search(x[:50], y[:50], batch_size=8, epochs=4, validation_data=(x[50:], y[50:]), callbacks=[stop], verbose=0)
best = tuner.best_model()
print("best:", best.evaluate(x[50:], y[50:], verbose=0))
best.fit(x, y, batch_size=8, epochs=2, verbose=0)
print("and on all data:", best.evaluate(x, y, verbose=0))
