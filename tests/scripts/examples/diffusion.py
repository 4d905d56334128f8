"""A diffusion model: a network that learns to remove noise, and its moving average, which is validated and draws images."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

keras.utils.set_random_seed(7)
rng = np.random.default_rng(7)
images = np.zeros((56, 8, 8, 1), "float32")
for image in images:
    image[:, rng.integers(0, 8)] = image[rng.integers(0, 8)] = 1.0


class Waves(layers.Layer):
    """Sines and cosines of the noise's variance."""

    def call(self, variance):
        angles = 6.283 * ops.exp(ops.linspace(0.0, 4.0, 4, dtype=variance.dtype)) * variance
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)


def block(x, width):
    carried = x if x.shape[-1] == width else layers.Conv2D(width, 1)(x)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = layers.Conv2D(width, 3, padding="same", activation="swish")(x)
    return layers.Add()([layers.Conv2D(width, 3, padding="same")(x), carried])


def network():
    noisy, variances = keras.Input((8, 8, 1)), keras.Input((1, 1, 1))
    x = layers.Concatenate()([layers.Conv2D(4, 1)(noisy), layers.UpSampling2D(8)(Waves()(variances))])
    skipped = block(x, 6)
    x = layers.AveragePooling2D(2)(skipped)
    x = layers.UpSampling2D(interpolation="bilinear")(block(x, 8))
    x = block(layers.Concatenate()([x, skipped]), 6)
    return keras.Model([noisy, variances], layers.Conv2D(1, 1, kernel_initializer="zeros")(x))


class Diffusion(keras.Model):
    def __init__(self, ema=0.9):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = network()
        self.ema_network = keras.models.clone_model(self.network)
        self.ema = ema
        self.seed_generator = keras.random.SeedGenerator(77)

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.noise_loss = keras.metrics.Mean(name="n_loss")

    @property
    def metrics(self):
        return [self.noise_loss]

    def rates(self, times):
        angles = 1.5 * times + 0.02
        return ops.sin(angles), ops.cos(angles)

    def noised(self, images):
        size = ops.shape(images)[0]
        noises = keras.random.normal(ops.shape(images), seed=self.seed_generator)
        times = keras.random.uniform((size, 1, 1, 1), seed=self.seed_generator)
        noise_rates, signal_rates = self.rates(times)
        return signal_rates * images + noise_rates * noises, noises, noise_rates

    def train_step(self, images):
        noisy, noises, rates = self.noised(self.normalizer(images, training=True))
        with tf.GradientTape() as tape:
            found = self.network([noisy, rates**2], training=True)
            loss = self.loss(noises, found)
        gradients = tape.gradient(loss, self.network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights))
        self.noise_loss.update_state(loss)
        for weight, ema_weight in zip(self.network.weights, self.ema_network.weights):
            ema_weight.assign(self.ema * ema_weight + (1 - self.ema) * weight)
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, images):
        noisy, noises, rates = self.noised(self.normalizer(images, training=False))
        self.noise_loss.update_state(self.loss(noises, self.ema_network([noisy, rates**2], training=False)))
        return {metric.name: metric.result() for metric in self.metrics}

    def generate(self, number, steps=3):
        current = keras.random.normal((number, 8, 8, 1), seed=self.seed_generator)
        for step in range(steps):
            noise_rates, signal_rates = self.rates(ops.full((number, 1, 1, 1), 1.0 - step / steps))
            noises = self.ema_network([current, noise_rates**2], training=False)
            clean = (current - noise_rates * noises) / signal_rates
            noise_rates, signal_rates = self.rates(ops.full((number, 1, 1, 1), 1.0 - (step + 1) / steps))
            current = signal_rates * clean + noise_rates * noises
        return clean


model = Diffusion()
model.normalizer.adapt(images)
model.compile(optimizer=keras.optimizers.AdamW(3e-3, weight_decay=1e-4), loss=keras.losses.MeanAbsoluteError())
dataset = tf.data.Dataset.from_tensor_slices(images[:40]).batch(8, drop_remainder=True)
validation = tf.data.Dataset.from_tensor_slices(images[40:]).batch(8, drop_remainder=True)
history = model.fit(dataset, epochs=4, validation_data=validation, verbose=0)
print(history.history)
print("drawn:", ops.mean(model.generate(2), axis=(1, 2, 3)).numpy().tolist())
