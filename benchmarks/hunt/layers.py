"""Which layers are drawn, and how they are made: a line for each class that `keras.layers` exports.

A line says of which rank the layer's input may be (without the batch axis) and which arguments it may get. "{...}" is drawn
from `choices.VALUES`; an argument that begins with "?" is drawn only sometimes. `LEFT_OUT` says of the others why they aren't
here; tests/test_hunt.py sees to it that each exported class is in one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

WEIGHTS = ("?kernel_regularizer={regularizer}", "?kernel_constraint={constraint}", "?kernel_initializer={initializer}")
DENSE = ("?activation={activation}", "?use_bias=False", "?bias_regularizer={regularizer}", *WEIGHTS)
EMBEDDINGS = ("?embeddings_regularizer={regularizer}", "?embeddings_constraint={constraint}")
ACTIVE = ("?activity_regularizer={regularizer}",)
FILTERS = ("?padding='same'", "?activation={activation}", "?use_bias=False", *WEIGHTS)
CONVOLUTION = ("?strides=2", *FILTERS)  # Keras has no strides beside a dilation
DILATED = ("?dilation_rate=2", *FILTERS)
SEPARABLE = ("?depth_multiplier=2", "?padding='same'", "?activation={activation}", "?use_bias=False")
RECURRENT = (
    "?return_sequences=True",
    "?dropout=0.2",
    "?recurrent_dropout=0.2",
    "?go_backwards=True",
    "?activation={activation}",
    "?seed=3",
    "?unroll=True",
)
POOLING = ("?padding='same'", "?strides=1")
PIXELS = "value_range=(0, 1)"


@dataclass(frozen=True)
class Kind:
    """How a layer is made.

    Attributes:
      ranks: ranks of its input, a digit each.
      arguments: templates of its arguments.
      takes: "one" tensor, a "list" of two, or "two" as two arguments.
      inputs: "floats", or what else it must be given: "tokens", "texts".
    """

    ranks: str
    arguments: tuple[str, ...] = ()
    takes: str = "one"
    inputs: str = "floats"


def _kinds(ranks: str, takes: str = "one", inputs: str = "floats", **arguments: tuple[str, ...]) -> dict[str, Kind]:
    return {name: Kind(ranks, given, takes, inputs) for name, given in arguments.items()}


LAYERS: dict[str, Kind] = {
    **_kinds(
        "123",
        Dense=("{units}", *DENSE, *ACTIVE),
        Activation=("{activation}",),
        ActivityRegularization=("l1=1e-3", "l2=1e-3"),
        AlphaDropout=("0.2", "?seed=5"),
        BatchNormalization=("?momentum=0.9", "?scale=False", "?center=False", "?gamma_regularizer={regularizer}"),
        Dropout=("0.3", "?seed=5", "?noise_shape=(None, *{ones})"),
        ELU=("?alpha=0.5",),
        GaussianDropout=("0.2", "?seed=4"),
        GaussianNoise=("0.1", "?seed=4"),
        GroupNormalization=("{groups}",),
        Identity=(),
        Lambda=("{function}",),
        LayerNormalization=("?epsilon=1e-4", "?scale=False", "?center=False", "?beta_constraint={constraint}"),
        LeakyReLU=("?negative_slope=0.1",),
        Normalization=("mean=0.1", "variance=2.0"),
        PReLU=("?alpha_regularizer={regularizer}", "?alpha_initializer={initializer}", "?alpha_constraint={constraint}"),
        RMSNormalization=(),
        ReLU=("?max_value=6.0", "?negative_slope=0.1", "?threshold=0.2"),
        Rescaling=("0.5", "offset=0.1"),
        Reshape=("{reversed}",),
        Softmax=(),
        SpectralNormalization=("layers.Dense({units}, activation={activation})", "?power_iterations=2"),
        UnitNormalization=(),
    ),
    **_kinds("23", Flatten=(), Permute=("{permutation}",), 
        EinsumDense=("'...a,ab->...b'", "(*{leading}, 3)", "?activation={activation}")),
    **_kinds("1", RepeatVector=("3",), Discretization=("[-0.5, 0.0, 0.5]", "output_mode='one_hot'")),
    **_kinds(
        "2",
        AdaptiveAveragePooling1D=("2",),
        AdaptiveMaxPooling1D=("2",),
        AveragePooling1D=("2", *POOLING),
        Bidirectional=("{rnn}", "?merge_mode='sum'"),
        Conv1D=("{units}", "2", *CONVOLUTION, *ACTIVE),
        Conv1DTranspose=("{units}", "2", *CONVOLUTION),
        Cropping1D=("1",),
        DepthwiseConv1D=("2", *SEPARABLE),
        GRU=("{units}", *RECURRENT, "?reset_after=False"),
        GlobalAveragePooling1D=("?keepdims=True",),
        GlobalMaxPooling1D=(),
        LSTM=("{units}", *RECURRENT, "?unit_forget_bias=False"),
        Masking=("?mask_value=0.0",),
        MaxPooling1D=("2", *POOLING),
        RNN=("{cells}", "?return_sequences=True"),
        SeparableConv1D=("{units}", "2", *SEPARABLE),
        SimpleRNN=("{units}", *RECURRENT),
        SpatialDropout1D=("0.3", "?seed=2"),
        TimeDistributed=("layers.Dense({units}, activation={activation})",),
        UpSampling1D=("2",),
        ZeroPadding1D=("1",),
        STFTSpectrogram=("mode='log'", "frame_length=4", "frame_step=2", "fft_length=4"),
    ),
    **_kinds(
        "3",
        AdaptiveAveragePooling2D=("2",),
        AdaptiveMaxPooling2D=("2",),
        AveragePooling2D=("2", *POOLING),
        CenterCrop=("4", "4"),
        Conv2D=("{units}", "3", *CONVOLUTION, *ACTIVE),
        Conv2DTranspose=("{units}", "3", *CONVOLUTION),
        ConvLSTM1D=("2", "2", "?return_sequences=True", "?dropout=0.2"),
        Cropping2D=("1",),
        DepthwiseConv2D=("2", *SEPARABLE),
        GlobalAveragePooling2D=("?keepdims=True",),
        GlobalMaxPooling2D=(),
        MaxPooling2D=("2", *POOLING),
        Resizing=("5", "5", "?interpolation='nearest'"),
        SeparableConv2D=("{units}", "2", *SEPARABLE),
        SpatialDropout2D=("0.3",),
        UpSampling2D=("2", "?interpolation='bilinear'"),
        ZeroPadding2D=("1",),
        AugMix=(PIXELS, "seed=1"),
        AutoContrast=(PIXELS,),
        ContrastLimitedAdaptiveHistogramEqualization=(PIXELS, "tile_grid_size=(2, 2)"),
        Equalization=(PIXELS, "bins=16"),
        MixUp=("seed=1",),
        Pipeline=("[layers.RandomFlip(seed=1), layers.RandomBrightness(0.1, seed=2)]",),
        RandAugment=(PIXELS, "?seed=1"),
        RandomBrightness=("0.2", PIXELS, "?seed=1"),
        RandomColorDegeneration=("0.3", PIXELS, "?seed=1"),
        RandomColorJitter=(PIXELS, "brightness_factor=0.2", "contrast_factor=0.2", "?seed=1"),
        RandomContrast=("0.2", "?seed=1"),
        RandomCrop=("4", "4", "?seed=1"),
        RandomElasticTransform=("0.5", "0.5", PIXELS, "?seed=1"),
        RandomErasing=("0.5", PIXELS, "?seed=1"),
        RandomFlip=("?mode='horizontal'", "?seed=1"),
        RandomGaussianBlur=("0.5", "3", PIXELS, "?seed=1"),
        RandomGrayscale=("0.5", "?seed=1"),
        RandomHue=("0.3", PIXELS, "?seed=1"),
        RandomInvert=("0.5", PIXELS, "?seed=1"),
        RandomPerspective=("0.5", "0.5", "?seed=1"),
        RandomPosterization=("4", PIXELS, "?seed=1"),
        RandomRotation=("0.1", "?fill_mode='constant'", "?seed=1"),
        RandomSaturation=("0.4", PIXELS, "?seed=1"),
        RandomSharpness=("0.4", PIXELS, "?seed=1"),
        RandomShear=("0.2", "0.2", "?seed=1"),
        RandomTranslation=("0.2", "0.2", "?seed=1"),
        RandomZoom=("0.2", "?seed=1"),
        Solarization=("0.1", "0.5", PIXELS, "?seed=1"),
    ),
    **_kinds(
        "4",
        AdaptiveAveragePooling3D=("2",),
        AdaptiveMaxPooling3D=("2",),
        AveragePooling3D=("2",),
        Conv3D=("{units}", "2", *CONVOLUTION),
        Conv3DTranspose=("{units}", "2", *CONVOLUTION),
        ConvLSTM2D=("2", "2", "?return_sequences=True"),
        Cropping3D=("1",),
        GlobalAveragePooling3D=(),
        GlobalMaxPooling3D=(),
        MaxPooling3D=("2",),
        SpatialDropout3D=("0.3",),
        UpSampling3D=("2",),
        ZeroPadding3D=("1",),
    ),
    **_kinds("5", ConvLSTM3D=("2", "2")),
    **_kinds(
        "1",
        inputs="tokens",
        CategoryEncoding=("12", "output_mode={encoding}"),
        Embedding=("12", "{units}", "?mask_zero=True", *EMBEDDINGS),
        Hashing=("12", "output_mode={encoding}"),
        IntegerLookup=("vocabulary=[1, 2, 3, 5, 7]", "output_mode={encoding}"),
        ReversibleEmbedding=("12", "{units}", "?tie_weights=False"),
    ),
    **_kinds(
        "1",
        inputs="texts",
        StringLookup=("vocabulary=['a', 'b', 'c d']", "output_mode='multi_hot'"),
        TextVectorization=("vocabulary=['a', 'b', 'c', 'd']", "output_mode='multi_hot'"),
    ),
    **_kinds(
        "123", takes="list", Add=(), Average=(), Concatenate=(), Maximum=(), Minimum=(), Multiply=(), Subtract=()
    ),
    **_kinds(
        "2",
        takes="list",
        AdditiveAttention=("?dropout=0.2",),
        Attention=("?use_scale=True", "?score_mode='concat'", "?dropout=0.2", "?seed=1"),
        Dot=("axes=(2, 2)", "?normalize=True"),
    ),
    **_kinds(
        "2",
        takes="two",
        GroupQueryAttention=("2", "2", "1", "?dropout=0.2"),
        MultiHeadAttention=("2", "2", "?dropout=0.2", "?use_bias=False", *WEIGHTS[:2]),
    ),
}  # fmt: skip

# Not of Keras: classes of `pieces.py`, such as users write; `{first}` is the variable of an earlier layer.
CUSTOM: dict[str, Kind] = {
    **_kinds(
        "123",
        Counts=(),
        RunningCentre=(),
        OwnNoise=(),
        Penalty=("?0.1",),
        PlainVariable=(),
        Reverses=(),
        DrawsByTensorFlow=(),
        DrawsWhileTraced=(),
        Gated=("{units}",),
        Residual=("{activation}",),
        SwishUnit=(),
    ),
}

HEAVY = ("AugMix", "RandAugment", "RandomElasticTransform", "ContrastLimitedAdaptiveHistogramEqualization")  # long to trace

LEFT_OUT = {
    "CutMix": "draws boxes by integers of the batch's size; asks for labels beside the images",
    "FlaxLayer": "is for JAX's backend",
    "GRUCell": "is drawn within RNN",
    "HashedCrossing": "takes two columns of shape (batch,) or (batch, 1): none of the inputs here",
    "Input": "is a function; each model has it",
    "InputLayer": "each functional model has it",
    "InputSpec": "is no layer",
    "JaxLayer": "is for JAX's backend",
    "LSTMCell": "is drawn within RNN",
    "Layer": "is the base of all; custom layers are its subclasses",
    "MaxNumBoundingBoxes": "is for dicts of boxes in a data pipeline",
    "MelSpectrogram": "wants thousands of samples",
    "SimpleRNNCell": "is drawn within RNN",
    "StackedRNNCells": "is drawn within RNN",
    "TFSMLayer": "wraps a saved model that can't be trained",
    "TorchModuleWrapper": "is for PyTorch's backend",
    "Wrapper": "is a base",
}
