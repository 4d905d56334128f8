"""Distillation: a small student learns from labels and from what a trained teacher says."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.utils.set_random_seed(4)
rng = np.random.default_rng(4)
x = rng.normal(size=(128, 6)).astype("float32")
y = np.argmax(np.stack([x[:, 0] * x[:, 1], x[:, 2], -x[:, 3]], axis=1), axis=1)
x_test, y_test = x[96:], y[96:]
x, y = x[:96], y[:96]

teacher = keras.Sequential(
    [keras.Input((6,)), layers.Dense(24, "gelu"), layers.Dropout(0.1), layers.Dense(24, "gelu"), layers.Dense(3)],
    name="teacher",
)
student = keras.Sequential([keras.Input((6,)), layers.Dense(6, "relu"), layers.Dense(3)], name="student")
scratch = keras.models.clone_model(student)
crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

teacher.compile("adam", crossentropy, metrics=["sparse_categorical_accuracy"])
teacher.fit(x, y, batch_size=32, epochs=3, verbose=0)
print("teacher:", teacher.evaluate(x_test, y_test, verbose=0))


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.student = student
        self.teacher = teacher

    def compile(self, optimizer, metrics, student_loss, distillation_loss, alpha=0.1, temperature=3.0):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss = student_loss
        self.distillation_loss = distillation_loss
        self.alpha = alpha
        self.temperature = temperature

    def call(self, x):
        return self.student(x)

    def train_step(self, data):
        x, y = data
        taught = self.teacher(x, training=False)
        with tf.GradientTape() as tape:
            said = self.student(x, training=True)
            student_loss = self.student_loss(y, said)
            soft = tf.nn.softmax(taught / self.temperature), tf.nn.softmax(said / self.temperature)
            distillation_loss = self.distillation_loss(*soft) * self.temperature**2
            loss = self.alpha * student_loss + (1 - self.alpha) * distillation_loss
        gradients = tape.gradient(loss, self.student.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.student.trainable_variables))
        results = self.compute_metrics(x, y, said)
        return results | {"student_loss": student_loss, "distillation_loss": distillation_loss}

    def test_step(self, data):
        x, y = data
        said = self.student(x, training=False)
        return self.compute_metrics(x, y, said) | {"student_loss": self.student_loss(y, said)}


distiller = Distiller(student, teacher)
distiller.compile(
    optimizer=keras.optimizers.AdamW(0.01, weight_decay=1e-3),
    metrics=[keras.metrics.SparseCategoricalAccuracy()],
    student_loss=crossentropy,
    distillation_loss=keras.losses.KLDivergence(),
)
history = distiller.fit(x, y, batch_size=20, epochs=4, validation_data=(x_test, y_test), verbose=0)
print("distilled:", history.history)
print("distilled:", [float(each) for each in distiller.evaluate(x_test, y_test, verbose=0)])

scratch.compile("adam", crossentropy, metrics=["sparse_categorical_accuracy"])
scratch.fit(x, y, batch_size=20, epochs=2, verbose=0)
print("from scratch:", scratch.evaluate(x_test, y_test, verbose=0))
