"""Transfer learning: a new head on a frozen base, then the base thawed and all of it tuned with a small learning rate."""

import keras
import numpy as np
from keras import layers

keras.utils.set_random_seed(1)
rng = np.random.default_rng(1)
bars = rng.integers(0, 4, 96)
images = rng.normal(0, 0.3, (96, 12, 12, 1)).astype("float32")
for image, bar in zip(images, bars):
    image[3 * bar : 3 * bar + 3] += 1.0
left = rng.integers(0, 2, 72)
new_images = rng.normal(0, 0.3, (72, 12, 12, 1)).astype("float32")
for image, side in zip(new_images, left):
    image[:, 6 * side : 6 * side + 6] += 1.0

# The base, trained on another task.
inputs = keras.Input((12, 12, 1))
x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(inputs)
x = layers.BatchNormalization()(x)
x = layers.ReLU()(x)
x = layers.SeparableConv2D(8, 3, padding="same", use_bias=False)(x)
x = layers.BatchNormalization()(x)
x = layers.Activation("silu")(x)
x = layers.MaxPooling2D()(x)
base = keras.Model(inputs, x, name="base")
pretrained = keras.Sequential([base, layers.Flatten(), layers.Dense(4, activation="softmax")])
pretrained.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
history = pretrained.fit(images, bars, batch_size=16, epochs=2, verbose=0)
print("base:", history.history)

# A new head; batch normalization in the base stays in inference mode, when it is thawed too.
base.trainable = False
inputs = keras.Input((12, 12, 1))
x = keras.Sequential([layers.RandomFlip("vertical"), layers.RandomTranslation(0.1, 0.0)])(inputs)
x = layers.Rescaling(0.5)(x)
x = base(x, training=False)
x = layers.GlobalAveragePooling2D()(x)
x = layers.Dropout(0.2)(x)
model = keras.Model(inputs, layers.Dense(1)(x))
bce = keras.losses.BinaryCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.01), bce, metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)])
history = model.fit(new_images, left, batch_size=16, epochs=2, validation_split=0.25, verbose=0)
print("head:", history.history)

base.trainable = True
model.compile(keras.optimizers.Adam(1e-3), bce, metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)])
callbacks = [
    keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
    keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1),
]
history = model.fit(new_images, left, batch_size=16, epochs=4, validation_split=0.25, callbacks=callbacks, verbose=0)
print("all of it:", history.history)
print("evaluated:", model.evaluate(new_images, left, verbose=0))
