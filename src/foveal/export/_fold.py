"""What is done to an exported program: BatchNorm goes into the convolution before it, memory is left to the runtime."""

from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx.node import map_arg
from torch.nn.utils.fusion import fuse_conv_bn_weights

ATEN = torch.ops.aten


def fold_norms(program: ExportedProgram) -> int:
    """Fold every BatchNorm that alone reads a convolution whose weights nobody else has; return how many.

    The shift takes the place of the norm's bias, which becomes that of the convolution. What the graph computes is the
    same up to rounding.
    """
    graph, signature, state = program.graph_module.graph, program.graph_signature, program.state_dict
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    norms = [node for node in graph.nodes if node.target is ATEN.batch_norm.default and _foldable(node, names)]
    for norm in norms:
        conv, scale, shift, mean, var, _, _, eps, *_ = norm.args
        weight, bias = _constants(conv)
        transposed = conv.target is ATEN.conv_transpose2d.input
        nodes = (weight, bias, mean, var, scale, shift)
        conv_w, conv_b, running_mean, running_var, bn_w, bn_b = [_value(node, state, names) for node in nodes]
        fused = fuse_conv_bn_weights(conv_w, conv_b, running_mean, running_var, eps, bn_w, bn_b, transposed)
        for node, value in zip((weight, shift), fused):
            state[names[node.name]] = nn.Parameter(value.detach(), requires_grad=False)
        conv.args = (*conv.args[:2], shift, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        graph.erase_node(norm)
    program.graph_module.recompile()
    return len(norms)


def _foldable(norm: Any, names: dict[str, str]) -> bool:
    """Whether a BatchNorm follows a convolution and both have their constants for themselves."""
    conv, scale, shift, mean, var, training, *_ = norm.args
    if conv.target not in (ATEN.conv2d.default, ATEN.conv_transpose2d.input) or len(conv.users) > 1:
        return False
    if conv.target is ATEN.conv_transpose2d.input and len(conv.args) > 6 and conv.args[6] != 1:  # groups
        return False
    if training or scale is None or shift is None:
        return False
    constants: list[Any] = [node for node in (*_constants(conv), scale, shift, mean, var) if node is not None]
    return all(node.name in names and len(node.users) == 1 for node in constants)


def _value(node: Any, state: dict[str, Any], names: dict[str, str]) -> Any:
    return None if node is None else state[names[node.name]]


def _constants(conv: Any) -> tuple[Any, Any]:
    """Weight and bias, if any, of a convolution."""
    return conv.args[1], conv.args[2] if len(conv.args) > 2 else None


def flatten_linears(program: ExportedProgram) -> int:
    """Give every linear layer with a bias a list of tokens [N, C] in place of more dimensions; return how many.

    ONNX has a product with a bias for matrices alone; for more dimensions it takes two operators, which a runtime fuses
    only where all sizes are numbers.
    """
    graph, changed = program.graph_module.graph, 0
    for node in list(graph.nodes):
        if node.target is not ATEN.linear.default or len(node.args) < 3 or node.args[0].meta["val"].ndim < 3:
            continue
        x, weight, bias = node.args
        with graph.inserting_before(node):
            sizes = [_size(graph, x, axis) for axis in range(x.meta["val"].ndim - 1)]
            tokens = _call(graph, ATEN.reshape.default, x, [-1, weight.meta["val"].shape[1]])
            product = _call(graph, ATEN.linear.default, tokens, weight, bias)
            result = _call(graph, ATEN.reshape.default, product, [*sizes, weight.meta["val"].shape[0]])
        node.replace_all_uses_with(result)
        graph.erase_node(node)
        changed += 1
    program.graph_module.recompile()
    return changed


def _size(graph: Any, x: Any, axis: int) -> Any:
    """A size of a tensor: a number, or the node of a symbol."""
    size = x.meta["val"].shape[axis]
    return size if isinstance(size, int) else _call(graph, ATEN.sym_size.int, x, axis)


def _call(graph: Any, target: Any, *args: Any) -> Any:
    """A new node with what it gives in its meta, as ``torch.export`` leaves it."""
    node = graph.call_function(target, args)
    values = map_arg(args, lambda arg: arg.meta["val"])
    node.meta["val"] = target(*values)
    return node


def forget_layout(program: ExportedProgram) -> None:
    """Take out what changes the layout of a map in memory, and nothing else."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is ATEN.contiguous.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    program.graph_module.recompile()
