"""Errors of two kinds: the class that says what is wrong, and the one that Keras happens to raise when it stumbles over it.

So whoever catches what Keras raises catches these. Where Keras says itself what is wrong, its class is raised and nothing here.
"""

# The model's loss needs targets, and the data hold none. Keras's own words would be "None values not supported.".
NO_TARGETS = "`y` is needed by the model's loss. Received: no targets, y=None"


class NoDataError(ValueError, KeyError):
    """No data were given. Keras looks for their number of rows in an empty set."""

    __str__ = Exception.__str__  # a KeyError would show the message's repr


class ModelError(ValueError, AttributeError):
    """The model can't be trained. Keras uses the missing optimizer, or takes `items` from logs that are no dict."""


class CallbackError(TypeError, AttributeError):
    """Something that is no Keras callback. Keras calls a method that it hasn't got."""


class FrequencyError(ValueError, ZeroDivisionError):
    """`validation_freq` makes no sense. Keras divides by it, after the first epoch."""
