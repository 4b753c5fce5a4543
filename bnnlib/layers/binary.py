"""What the binary convolution and the binary linear layer share: latent weight, quantizers, output scale,
constraint."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from bnnlib.layers import latent
from bnnlib.layers.dropout import dropout
from bnnlib.layers.options import Options, parts
from bnnlib.layers.quantizers import Quantizer, ScaledSign, Sign
from bnnlib.layers.scales import OutputScale
from bnnlib.layers.values import flag, floating, number


class BinaryLayer(nn.Module):
    """Base of the binary layers; what it takes by keyword is in :class:`bnnlib.layers.options.Options`.

    Attributes:
        weight: the real-valued latent weight, ``(C_out, ...)``.
        input_quantizer: a module, or None where the input stays real-valued.
        weight_quantizer: a module, applied to the weight behind ``transform``.
        output_scale: a module, or None.
        transform, constraint: modules, or None; see :mod:`bnnlib.layers.latent`.
    """

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        bias: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        made = parts(type(self).__name__, weight_shape, options)
        self.dropout = number("dropout", options.get("dropout", 0.0))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}: it must lie in [0, 1)")
        if min(weight_shape) < 1:
            raise ValueError(f"the weight would be of shape {weight_shape}: every size must be at least 1")
        self.input_scale = flag("input_scale", options.get("input_scale", False))
        made_as = {"device": device, "dtype": floating("dtype", dtype)}
        self.weight = nn.Parameter(torch.empty(weight_shape, **made_as))
        self.bias = nn.Parameter(torch.empty(weight_shape[0], **made_as)) if flag("bias", bias) else None
        self.input_quantizer, self.weight_quantizer = made.input_quantizer, made.weight_quantizer
        self.transform, self.constraint = made.transform, made.constraint
        self.set_output_scale(made.output_scale)
        if device is not None or dtype is not None:  # a temperature, a scale of another's
            self.to(device=device, dtype=dtype)
        self.reset_parameters()

    def set_output_scale(self, scale: nn.Module | None) -> None:
        """Give the layer this output scale, and the parameters that it multiplies, not yet set."""
        for name in getattr(getattr(self, "output_scale", None), "factors", ()):
            delattr(self, name)
        self.output_scale = scale
        for name, shape in scale.factors.items() if isinstance(scale, OutputScale) else ():
            self.register_parameter(name, nn.Parameter(self.weight.new_empty(shape)))

    def reset_parameters(self) -> None:
        """PyTorch's default initialisation of a layer of this shape, then :meth:`reset_scale`."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        self.reset_scale()

    def reset_scale(self) -> None:
        """The factors of the output scale, as they start for the latent weights that there are now."""
        if isinstance(self.output_scale, OutputScale):
            for name in self.output_scale.factors:
                self.output_scale.start(name, getattr(self, name), self.weight)

    @property
    def binary_input(self) -> bool:
        """Whether the input is binarised."""
        return self.input_quantizer is not None

    @property
    def scale_kind(self) -> str:
        """``mean``, ``none``, or the kind of the output scale (``own`` for a module of another library's)."""
        if self.output_scale is not None:
            return getattr(self.output_scale, "kind", "own")
        return "mean" if isinstance(self.weight_quantizer, ScaledSign) else "none"

    @property
    def exact(self) -> bool:
        """Whether both quantizers give +-1, so that sums are whole numbers and bits may stand for what is
        multiplied."""
        return isinstance(self.input_quantizer, Quantizer) and isinstance(self.weight_quantizer, Quantizer)

    def binarize_input(self, x: Tensor) -> Tensor:
        """What the layer multiplies by its weights: ``x`` through the input quantizer and, in training,
        dropout; ``x`` itself where the input stays real-valued."""
        return self._dropped(x if self.input_quantizer is None else self.input_quantizer(x))

    def _dropped(self, b: Tensor) -> Tensor:
        return dropout(b, self.dropout) if self.dropout and self.training else b

    def _signs_later(self, x: Tensor) -> Tensor:
        """:meth:`binarize_input` for an operation that takes the signs itself."""
        if isinstance(self.input_quantizer, Sign) and not (self.dropout and self.training):
            return self.input_quantizer.leave_signs(x)
        return self.binarize_input(x)

    def _transformed(self) -> Tensor:
        return self.weight if self.transform is None else self.transform(self.weight)

    def split_weight(self) -> tuple[Tensor, Tensor | None]:
        """The weight of an evaluation as (+-1, scale per output channel ``(C_out, 1, ...)`` or None); no
        gradient. A weight quantizer that is no :class:`Quantizer` gives what it gives, and None."""
        with torch.no_grad():
            if isinstance(self.weight_quantizer, Quantizer):
                return self.weight_quantizer.split(self._transformed())
            return self.weight_quantizer(self._transformed()), None

    def binary_weight(self) -> Tensor:
        """The weight as +-1, shape of ``weight``; no gradient."""
        return self.split_weight()[0]

    def channel_scale(self) -> Tensor | None:
        """The scale of each output channel, shape ``(C_out,)``, or None where there is none, or one that
        differs from pixel to pixel; no gradient."""
        scale = self.scaling_factors()
        if scale is None or scale.numel() != self.weight.shape[0]:
            return None
        return scale.detach().flatten()

    def scaling_factors(self) -> Tensor | None:
        """What multiplies the exact sums in evaluation, broadcastable to ``(C_out, H_out, W_out)``, or
        ``(C_out,)`` of a linear layer; None where nothing does."""
        alpha = self.split_weight()[1]
        return self._times_output_scale(None if alpha is None else self._per_channel(alpha))

    @property
    def scale_dims(self) -> int:
        """Dimensions of a scale per output channel: 3, ``(C_out, 1, 1)``, of a convolution; 1 of a linear
        layer."""
        return 1 if self.weight.dim() == 2 else 3

    def _per_channel(self, alpha: Tensor) -> Tensor:
        return alpha.reshape(-1, *[1] * (self.scale_dims - 1))

    def _times_output_scale(self, alpha: Tensor | None) -> Tensor | None:
        if self.output_scale is None:
            return alpha
        factors = [getattr(self, name) for name in getattr(self.output_scale, "factors", ())]
        scale = self.output_scale(*factors)
        return scale if alpha is None else alpha * scale

    def _weight_and_scale(self) -> tuple[Tensor, Tensor | None]:
        """What is multiplied first, and what the sums are multiplied by. In training the weight's own scale
        is folded into it, as the gradient formulas have it."""
        if self.training:
            return self.weight_quantizer(self._transformed()), self._times_output_scale(None)
        weight, alpha = self.split_weight()
        if self.weight.requires_grad and torch.is_grad_enabled() and not torch.onnx.is_in_onnx_export():
            weight = self._with_gradient(weight, alpha)
        return weight, self._times_output_scale(None if alpha is None else self._per_channel(alpha))

    def _with_gradient(self, weight: Tensor, alpha: Tensor | None) -> Tensor:
        """``weight``, what an evaluation multiplies, to the last bit, with the gradient of a training."""
        quantized = self.weight_quantizer(self._transformed())
        none = quantized - quantized.detach()  # zeros
        if alpha is not None:  # which multiplies the sums
            none = none / alpha.clamp(min=torch.finfo(alpha.dtype).tiny)
        return weight + none

    @torch.no_grad()
    def project_(self) -> None:
        """Bring the latent weights back to where the recipe keeps them; the training loop calls this after
        every step. Raises ``ValueError`` for a constraint on a weight that is computed from other parameters: what it would change
        is computed anew in the next step."""
        if self.constraint is not None and "weight" not in self._parameters:
            raise ValueError(
                f"latent={type(self.constraint).__name__} holds the weight of {type(self).__name__}, which is computed from other "
                "parameters here (a parametrization, weight norm, pruning): leave latent='free', or constrain those parameters yourself"
            )
        latent.hold_(self.constraint, self.weight)

    def extra_repr(self) -> str:
        text = f"bias={self.bias is not None}"
        for name, default in (("input_scale", False), ("dropout", 0.0), ("binary_input", True)):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


def whole_in_onnx(layer: BinaryLayer, sums: Tensor) -> Tensor:
    """The sums of ``layer``, as an exported graph must keep them: a runtime that moved the scale that follows
    into the weights would get sums of zero that are not zero, and flip their signs. Rounding changes no whole
    number, and nothing is moved past it."""
    whole = layer.exact and not layer.training and torch.onnx.is_in_onnx_export()
    return torch.round(sums) if whole else sums


def check_floating(layer: str, x: Tensor, weight: Tensor) -> None:
    """Raises ``ValueError`` for whole numbers, whose gradient would be lost, and for values of another type than
    ``weight`` has, unless autocast converts them."""
    given, own = (str(t.dtype).removeprefix("torch.") for t in (x, weight))
    if not x.is_floating_point():
        raise ValueError(
            f"{layer} expects floating-point values, got {given}: give x.float(), for images "
            "scaled as the network was trained to see them"
        )
    if x.dtype == weight.dtype:
        return
    if torch.float64 in (x.dtype, weight.dtype) or not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"{layer} has {own} weights and got {given} values: give x.to(torch.{own}), or convert the network with "
            f"model.to(torch.{given})"
        )


def binary_layers(model: nn.Module) -> dict[str, BinaryLayer]:
    """The binary layers of ``model`` by their qualified name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer)}


def project_(model: nn.Module) -> None:
    """Call ``project_`` of every module that has one: the constraints a recipe keeps between optimizer
    steps."""
    for module in model.modules():
        if hasattr(module, "project_"):
            module.project_()


def project_after_steps(optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
    """Have ``optimizer`` call :func:`project_` after each of its steps, for whoever trains by hand: without
    it ``latent="clip"`` does nothing. What comes back has a ``remove()``."""
    return optimizer.register_step_post_hook(lambda *_: project_(model))


def set_temperature_(model: nn.Module, temperature: float) -> None:
    """Set the temperature of every estimator in ``model`` that has one (:class:`bnnlib.layers.EDE`)."""
    for module in model.modules():
        if isinstance(module, Sign) and isinstance(getattr(module, "temperature", None), Tensor):
            module.temperature.fill_(temperature)
