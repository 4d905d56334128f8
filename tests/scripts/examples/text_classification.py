"""Text classification: a vocabulary from the training texts, a dataset that is shuffled anew, and a model for raw text."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.utils.set_random_seed(8)
rng = np.random.default_rng(8)
SUBJECTS = ["The film", "This story", "The acting", "That ending", "Its music"]
GOOD = ["a delight", "really moving", "great fun", "worth every minute"]
BAD = ["a bore", "really dull", "no fun at all", "a waste of time"]
texts, labels = [], []
for _ in range(80):
    label = int(rng.integers(0, 2))
    texts.append(f"{rng.choice(SUBJECTS)} was {rng.choice(GOOD if label else BAD)}!")
    labels.append(label)

vectorize = layers.TextVectorization(max_tokens=30, output_mode="int", output_sequence_length=8)
vectorize.adapt(texts[:60])
train = tf.data.Dataset.from_tensor_slices((texts[:60], labels[:60])).shuffle(60, seed=8).batch(8)
train = train.map(lambda text, label: (vectorize(text), label)).prefetch(2)
test = tf.data.Dataset.from_tensor_slices((texts[60:], labels[60:])).batch(8)
test = test.map(lambda text, label: (vectorize(text), label)).cache()

inputs = keras.Input((8,), dtype="int64")
x = layers.Embedding(30, 8)(inputs)
x = layers.Dropout(0.2)(x)
x = layers.Conv1D(8, 3, padding="valid", activation="relu", strides=2)(x)
x = layers.GlobalMaxPooling1D()(x)
x = layers.Dense(6, activation="relu")(x)
outputs = layers.Dense(1, activation="sigmoid")(x)
model = keras.Model(inputs, outputs)
model.compile("adam", "binary_crossentropy", metrics=["accuracy", "auc"])
stop = keras.callbacks.EarlyStopping("val_loss", patience=2)
history = model.fit(train, validation_data=test, epochs=4, callbacks=[stop], class_weight={0: 1.0, 1: 1.5}, verbose=0)
print(history.history)
print("evaluated:", model.evaluate(test, verbose=0))

raw = keras.Input((1,), dtype="string")
end_to_end = keras.Model(raw, model(vectorize(raw)))
end_to_end.compile("adam", "binary_crossentropy", metrics=["accuracy"])
said = tf.constant([["The music was great fun!"], ["That film was dull"]])
print("end to end:", end_to_end.evaluate(said, tf.constant([[1.0], [0.0]]), verbose=0))
print("said:", end_to_end.predict(said, verbose=0).tolist())
