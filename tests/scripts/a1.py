import numpy as np
from keras import Sequential
from keras.layers import Dense

x = np.random.rand(100, 1)
y = 2 * x + 1 + 0.1 * np.random.randn(100, 1)

model = Sequential([Dense(1)])
model.compile(optimizer="sgd", loss="mse")
model.fit(x, y, epochs=1, verbose=0)
once = model.get_weights()
model.fit(x, y, epochs=100, verbose=0)
print("once", once, "and 100 times more", model.get_weights())
