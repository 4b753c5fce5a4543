"""Binary layers: convolution and linear layers that multiply +-1 by +-1, and ReActNet's learned shifts.

A binary layer keeps real-valued *latent* weights for the optimizer and binarises them, and its input, at
every forward pass. What papers disagree on is a part of the layer, a module given by name or as an object:
the quantizers of input and weight, which hold the gradients (:mod:`bnnlib.layers.quantizers`), the output
scale (:mod:`bnnlib.layers.scales`), and what becomes of the latent weights before the sign and between steps
(:mod:`bnnlib.layers.latent`). :mod:`bnnlib.layers.options` has their names.

In evaluation the scale multiplies an exact sum of +-1 products, ``y = scale * (sign(x) * sign(W)) + bias``,
so that a packed layer (XNOR and popcount) computes the same numbers; in training mean|W| is folded into the
weights, which is what the gradient formulas of :func:`bnnlib.quantizers.scaled_sign` differentiate. The
gradients are the same in both modes. A net whose batch norms are frozen (``model.eval()``) still learns its
binary weights; ``layer.weight.requires_grad_(False)`` freezes these.

:func:`binarize_` puts binary layers into a net that exists. ``torch.compile``, ``torch.export``, ONNX export and
the transforms of ``torch.func`` take nets with these layers, but for forward-mode derivatives (``jvp``, ``jacfwd``,
``hessian``): an estimator says what becomes of a gradient, and of nothing else. ``torch.fx.symbolic_trace`` takes them
with a tracer for which they are leaves (``is_leaf_module``), and ``torch.jit.trace`` under ``torch.no_grad()``;
``torch.jit.script``, which PyTorch has replaced by export, does not take them.
"""

from bnnlib.layers.binarizing import binarize_
from bnnlib.layers.binary import BinaryLayer, binary_layers, project_, project_after_steps, set_temperature_
from bnnlib.layers.conv import BinaryConv1d, BinaryConv2d, popcount_forward
from bnnlib.layers.dropout import Dropout, dropout
from bnnlib.layers.latent import Center, CenterClip, Clip, Standardize
from bnnlib.layers.linear import BinaryLinear
from bnnlib.layers.options import Latent, Options, Scale, WeightTransform
from bnnlib.layers.quantizers import (
    EDE,
    ESTIMATORS,
    ApproxSign,
    ClippedSTE,
    IdentitySTE,
    Quantizer,
    ScaledSign,
    Sign,
    register_estimator,
)
from bnnlib.layers.reactnet import RPReLU, RSign
from bnnlib.layers.scales import (
    SPATIAL,
    ChannelMapScale,
    DenseScale,
    LearnedScale,
    OuterProductScale,
    OutputScale,
)

__all__ = [
    "EDE",
    "ESTIMATORS",
    "SPATIAL",
    "ApproxSign",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "Center",
    "CenterClip",
    "ChannelMapScale",
    "Clip",
    "ClippedSTE",
    "DenseScale",
    "Dropout",
    "IdentitySTE",
    "Latent",
    "LearnedScale",
    "Options",
    "OuterProductScale",
    "OutputScale",
    "Quantizer",
    "RPReLU",
    "RSign",
    "Scale",
    "ScaledSign",
    "Sign",
    "Standardize",
    "WeightTransform",
    "binarize_",
    "binary_layers",
    "dropout",
    "popcount_forward",
    "project_",
    "project_after_steps",
    "register_estimator",
    "set_temperature_",
]
