"""Contrastive learning: an encoder, a second one that follows it by momentum, and a queue of features to tell apart."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.utils.set_random_seed(5)
rng = np.random.default_rng(5)
kinds = rng.integers(0, 3, 96)
signals = (np.eye(3)[kinds] @ rng.normal(size=(3, 10)) + rng.normal(0, 0.4, (96, 10))).astype("float32")

WIDTH, QUEUE = 5, 24


def encoder(name):
    body = [layers.Dense(12, "relu"), layers.BatchNormalization(), layers.Dense(WIDTH)]
    return keras.Sequential([keras.Input((10,)), *body], name=name)


class MomentumContrast(keras.Model):
    def __init__(self, momentum=0.95, temperature=0.2):
        super().__init__()
        self.momentum = momentum
        self.temperature = temperature
        self.augmenter = keras.Sequential([layers.GaussianNoise(0.2), layers.Dropout(0.1)])
        self.encoder = encoder("encoder")
        self.momentum_encoder = encoder("momentum_encoder")
        self.momentum_encoder.set_weights(self.encoder.get_weights())
        self.probe = keras.Sequential([keras.Input((10,)), self.encoder, layers.Dense(3)], name="probe")
        first = tf.math.l2_normalize(tf.random.stateless_normal((QUEUE, WIDTH), seed=(5, 5)), axis=1)
        self.queue = tf.Variable(first, trainable=False)
        self.place = tf.Variable(0, trainable=False)

    def compile(self, contrastive_optimizer, probe_optimizer):
        super().compile()
        self.contrastive_optimizer = contrastive_optimizer
        self.probe_optimizer = probe_optimizer
        self.contrastive_loss = keras.metrics.Mean(name="contrastive_loss")
        self.probe_accuracy = keras.metrics.SparseCategoricalAccuracy(name="probe_accuracy")

    @property
    def metrics(self):
        return [self.contrastive_loss, self.probe_accuracy]

    def train_step(self, data):
        x, y = data
        keys = self.momentum_encoder(self.augmenter(x, training=True), training=True)
        keys = tf.math.l2_normalize(keys, axis=1)
        with tf.GradientTape() as tape:
            queries = tf.math.l2_normalize(self.encoder(self.augmenter(x, training=True), training=True), axis=1)
            alike = tf.reduce_sum(queries * keys, axis=1, keepdims=True)
            logits = tf.concat([alike, tf.matmul(queries, self.queue, transpose_b=True)], axis=1) / self.temperature
            labels = tf.zeros(tf.shape(x)[0], tf.int32)
            loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        gradients = tape.gradient(loss, self.encoder.trainable_weights)
        self.contrastive_optimizer.apply_gradients(zip(gradients, self.encoder.trainable_weights))
        self.contrastive_loss.update_state(loss)

        with tf.GradientTape() as tape:
            logits = self.probe(x, training=False)
            loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        head = self.probe.layers[-1].trainable_weights
        self.probe_optimizer.apply_gradients(zip(tape.gradient(loss, head), head))
        self.probe_accuracy.update_state(y, logits)

        for weight, followed in zip(self.momentum_encoder.weights, self.encoder.weights):
            weight.assign(self.momentum * weight + (1 - self.momentum) * followed)
        rows = (self.place + tf.range(tf.shape(keys)[0])) % QUEUE
        self.queue.scatter_nd_update(rows[:, None], keys)
        self.place.assign((self.place + tf.shape(keys)[0]) % QUEUE)
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data):
        x, y = data
        self.probe_accuracy.update_state(y, self.probe(x, training=False))
        return {"probe_accuracy": self.probe_accuracy.result()}


model = MomentumContrast()
model.compile(keras.optimizers.SGD(0.05, momentum=0.9), keras.optimizers.Adam(0.01))
dataset = tf.data.Dataset.from_tensor_slices((signals[:72], kinds[:72])).batch(12)
validation = tf.data.Dataset.from_tensor_slices((signals[72:], kinds[72:])).batch(12)
history = model.fit(dataset, epochs=4, validation_data=validation, verbose=0)
print(history.history)
print("features:", model.encoder.predict(signals[:2], verbose=0).tolist())
