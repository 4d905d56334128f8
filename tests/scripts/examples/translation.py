"""Sequence to sequence with attention: an encoder and a decoder of GRUs that learn to turn a sequence round."""

import keras
import numpy as np
from keras import layers

keras.utils.set_random_seed(6)
rng = np.random.default_rng(6)
START, LENGTH, WORDS = 1, 5, 8
source = np.zeros((80, LENGTH), "int32")
target = np.zeros((80, LENGTH + 1), "int32")
target[:, 0] = START
for row, out in zip(source, target):
    words = rng.integers(2, WORDS, rng.integers(2, LENGTH + 1))
    row[: len(words)], out[1 : len(words) + 1] = words, words[::-1]
inputs, outputs = {"source": source, "so_far": target[:, :-1]}, target[:, 1:]

encoder_in = keras.Input((LENGTH,), dtype="int32", name="source")
x = layers.Embedding(WORDS, 6, mask_zero=True)(encoder_in)
encoded, state = layers.GRU(8, return_sequences=True, return_state=True)(x)
decoder_in = keras.Input((None,), dtype="int32", name="so_far")
x = layers.Embedding(WORDS, 6, mask_zero=True)(decoder_in)
decoded = layers.GRU(8, return_sequences=True)(x, initial_state=state)
context = layers.Attention(use_scale=True)([decoded, encoded])
x = layers.Concatenate()([decoded, context])
x = layers.Dropout(0.1)(layers.Dense(8, activation="tanh")(x))
model = keras.Model([encoder_in, decoder_in], layers.Dense(WORDS)(x))
model.compile(
    keras.optimizers.Adam(0.01, clipnorm=1.0),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0),
    weighted_metrics=["accuracy"],
)
history = model.fit(inputs, outputs, batch_size=16, epochs=4, validation_split=0.2, verbose=0)
print(history.history)

so_far = np.full((3, 1), START)
for _ in range(LENGTH):
    logits = model.predict({"source": source[:3], "so_far": so_far}, verbose=0)
    so_far = np.concatenate([so_far, logits[:, -1:].argmax(-1)], axis=1)
print("turned round:", so_far[:, 1:].tolist())
