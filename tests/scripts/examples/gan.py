"""A GAN: two networks, an optimizer for each, and a train_step that moves both."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.utils.set_random_seed(2)
rng = np.random.default_rng(2)
squares = np.zeros((60, 8, 8, 1), "float32")
for square in squares:
    row, column = rng.integers(0, 5, 2)
    square[row : row + 3, column : column + 3] = 1.0

LATENT = 6
discriminator = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(8, 3, strides=2, padding="same"),
        layers.LeakyReLU(negative_slope=0.2),
        layers.Dropout(0.2),
        layers.Flatten(),
        layers.Dense(1),
    ],
    name="discriminator",
)
generator = keras.Sequential(
    [
        keras.Input((LATENT,)),
        layers.Dense(4 * 4 * 4, use_bias=False),
        layers.BatchNormalization(),
        layers.LeakyReLU(negative_slope=0.2),
        layers.Reshape((4, 4, 4)),
        layers.Conv2DTranspose(1, 4, strides=2, padding="same", activation="sigmoid"),
    ],
    name="generator",
)


class GAN(keras.Model):
    def __init__(self, discriminator, generator):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.seed_generator = keras.random.SeedGenerator(22)
        self.d_loss = keras.metrics.Mean(name="d_loss")
        self.g_loss = keras.metrics.Mean(name="g_loss")

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_fn = loss_fn

    @property
    def metrics(self):
        return [self.d_loss, self.g_loss]

    def train_step(self, real):
        size = tf.shape(real)[0]
        noise = keras.random.normal((size, LATENT), seed=self.seed_generator)
        both = tf.concat([self.generator(noise), real], axis=0)
        labels = tf.concat([tf.ones((size, 1)), tf.zeros((size, 1))], axis=0)
        labels += 0.05 * keras.random.uniform(tf.shape(labels), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(both, training=True))
        gradients = tape.gradient(d_loss, self.discriminator.trainable_weights)
        self.d_optimizer.apply_gradients(zip(gradients, self.discriminator.trainable_weights))

        noise = keras.random.normal((size, LATENT), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            predictions = self.discriminator(self.generator(noise, training=True))
            g_loss = self.loss_fn(tf.zeros((size, 1)), predictions)
        gradients = tape.gradient(g_loss, self.generator.trainable_weights)
        self.g_optimizer.apply_gradients(zip(gradients, self.generator.trainable_weights))
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {"d_loss": self.d_loss.result(), "g_loss": self.g_loss.result()}


class Monitor(keras.callbacks.Callback):
    """Looks at a few generated images after every epoch."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise
        self.brightness = []

    def on_epoch_end(self, epoch, logs=None):
        generated = self.model.generator(self.noise, training=False)
        self.brightness.append(float(np.mean(generated)))


gan = GAN(discriminator, generator)
gan.compile(
    d_optimizer=keras.optimizers.Adam(3e-3, beta_1=0.5),
    g_optimizer=keras.optimizers.RMSprop(2e-3, momentum=0.5),
    loss_fn=keras.losses.BinaryCrossentropy(from_logits=True),
)
monitor = Monitor(rng.normal(size=(4, LATENT)).astype("float32"))
dataset = tf.data.Dataset.from_tensor_slices(squares).batch(16)
history = gan.fit(dataset, epochs=4, callbacks=[monitor], verbose=0)
print(history.history)
print("brightness:", monitor.brightness)
