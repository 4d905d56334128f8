"""A variational autoencoder: the divergence is a loss that a layer adds, the reconstruction is compiled in."""

import keras
import numpy as np
from keras import layers, ops

keras.utils.set_random_seed(3)
rng = np.random.default_rng(3)
angles = rng.uniform(0, 2 * np.pi, 90)
waves = np.sin(angles[:, None] + np.linspace(0, 4, 16)).astype("float32") * 0.5 + 0.5


class Sampling(layers.Layer):
    """Draws a code, and adds how far its distribution is from the prior."""

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight
        self.seed_generator = keras.random.SeedGenerator(33)

    def call(self, inputs):
        mean, log_var = inputs
        divergence = -0.5 * ops.sum(1.0 + log_var - ops.square(mean) - ops.exp(log_var), axis=-1)
        self.add_loss(self.weight * ops.mean(divergence))
        return mean + ops.exp(0.5 * log_var) * keras.random.normal(ops.shape(mean), seed=self.seed_generator)


inputs = keras.Input((16,))
x = layers.Dense(12, activation="tanh")(inputs)
x = layers.LayerNormalization()(x)
mean = layers.Dense(2, name="mean")(x)
log_var = layers.Dense(2, name="log_var")(x)
code = Sampling(weight=0.01)([mean, log_var])
encoder = keras.Model(inputs, [mean, log_var, code], name="encoder")

codes = keras.Input((2,))
x = layers.Dense(12, activation="elu")(codes)
decoder = keras.Model(codes, layers.Dense(16, activation="sigmoid")(x), name="decoder")

vae = keras.Model(inputs, decoder(encoder(inputs)[2]), name="vae")
vae.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["mae"])
warm = keras.callbacks.LearningRateScheduler(lambda epoch, rate: min(0.01, 0.003 * (epoch + 1)))
history = vae.fit(waves, waves, batch_size=16, epochs=4, validation_data=(waves[:20], waves[:20]), callbacks=[warm], verbose=0)
print(history.history)
print("codes:", encoder.predict(waves[:3], verbose=0)[0].tolist())
print("decoded:", decoder.predict(np.zeros((1, 2)), verbose=0).tolist())
