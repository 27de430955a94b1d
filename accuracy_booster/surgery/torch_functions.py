"""Which functions of torch are layers, norms, sums and so on, by the names under which they run."""

from __future__ import annotations

CONVOLUTIONS = {"conv2d", "conv_transpose2d", "conv3d", "conv1d"}
LAYERS = CONVOLUTIONS | {"linear", "addmm", "module"}
NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm"}
SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
# In these a gate shuts a branch too. What is left is the shortcut, with another sign or factor.
WEIGHTED_SUMS = {"sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub", "subtract"}
WEIGHTED_SUMS |= {"lerp", "lerp_", "addcmul", "addcmul_"}
# Other functions that make one map of several. A shortcut and a branch that meet in one of them are
# reported.
JOINS = {"einsum", "stack", "maximum", "minimum", "fmax", "fmin", "where", "hypot", "logaddexp"}
JOINS |= {"complex", "addcdiv", "addcdiv_", "max", "min"}
JOINS |= WEIGHTED_SUMS | {"index_add", "index_add_", "scatter_add", "scatter_add_"}
JOINS |= {"index_put", "index_put_", "cat"}
PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"}
POOLS = {
    f"{how}_pool{rank}d{more}"
    for how in ("avg", "max", "lp", "_max", "adaptive_avg", "adaptive_max")
    for rank in (1, 2, 3)
    for more in ("", "_with_indices")
} | {"boolean_dispatch"}
UPSAMPLING = {"interpolate", "upsample", "pixel_shuffle", "upsample_nearest", "upsample_bilinear"}
UPSAMPLING |= {"repeat_interleave", "max_unpool1d", "max_unpool2d", "max_unpool3d"}
SHAPES = {"permute", "contiguous", "to", "type_as", "float", "half", "bfloat16", "type", "clone"}
SHAPES |= {"pad", "constant_pad_nd", "__getitem__", "dropout", "feature_dropout"}
SHAPES |= {"dropout1d", "dropout2d", "dropout3d", "detach", "detach_", "copy_", "written"}
SHAPES |= {"neg", "neg_", "negative", "__neg__", "flip", "fliplr", "flipud", "where"}
SHAPES |= {"__setitem__", "view_as_complex", "view_as_real", "squeeze", "unsqueeze", "double"}
SHAPES |= {"transpose", "view", "reshape", "flatten", "unflatten", "__get__", "chunk", "split"}
SHAPES |= {"div", "__truediv__", "div_", "alias", "as_subclass", "roll", "movedim", "unbind"}
RESHAPES = {"view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "alias"}
RESHAPES |= {"ravel"}
SHAPES |= RESHAPES
SHAPES |= {"masked_fill", "masked_fill_", "nan_to_num", "rot90", "swapaxes", "swapdims", "moveaxis"}
SHAPES |= {"channel_shuffle", "native_channel_shuffle", "positive"}
SHAPES |= {f"fake_quantize_per_{per}_affine" for per in ("tensor", "channel")}
ACTIVATIONS = {"relu", "relu_", "silu", "gelu", "elu", "hardswish", "leaky_relu", "mish", "selu"}
ACTIVATIONS |= {"relu6", "hardtanh", "prelu", "rrelu", "celu", "tanh", "softsign", "hardshrink"}
ACTIVATIONS |= {"softshrink", "tanhshrink"}
ACTIVATIONS |= {f"{name}_" for name in ACTIVATIONS if not name.endswith("_")}
GATES = {"sigmoid", "sigmoid_", "hardsigmoid", "softmax", "tanh"}
SLICES = {"__getitem__", "chunk", "split", "narrow", "unbind", "tensor_split"}
SLICES |= {"narrow_copy", "index_select"}
# Their output is 0 where their input is 0, so a gate may as well stand before them.
KEEPS_ZERO = SHAPES | POOLS | SLICES | ACTIVATIONS | PRODUCTS | {"abs", "abs_", "__abs__"}
MAP_RANKS = range(2, 6)  # [N, C], [N, C, L], [N, C, H, W], [N, C, D, H, W]
