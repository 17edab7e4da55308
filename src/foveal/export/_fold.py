"""What is done to an exported program: BatchNorm goes into the convolution before it, memory is left to the runtime."""

import copy
import operator
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx.node import Node, map_arg
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


def cut_weights(program: ExportedProgram) -> int:
    """Keep of every weight that is read as one slice alone that slice, and return how many they are.

    Otherwise the whole stays in the file, and quantisation does not know the slice for a weight.
    """
    graph, signature, state = program.graph_module.graph, program.graph_signature, program.state_dict
    parameters = signature.inputs_to_parameters
    cuts = [node for node in graph.nodes if node.target is ATEN.slice.Tensor]
    cuts = [node for node in cuts if node.args[0].name in parameters and len(node.args[0].users) == 1]
    for cut in cuts:
        weight, *place = cut.args
        name = parameters[weight.name]
        state[name] = nn.Parameter(ATEN.slice.Tensor(state[name].detach(), *place).clone(), requires_grad=False)
        weight.meta["val"] = cut.meta["val"]
        cut.replace_all_uses_with(weight)
        graph.erase_node(cut)
    program.graph_module.recompile()
    return len(cuts)


PRODUCTS = (ATEN.linear.default, ATEN.layer_norm.default)
ALONE = (ATEN.gelu.default, ATEN.sigmoid.default)
PAIRS = (ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.mul.Tensor)
VIEWS = (ATEN.reshape.default, ATEN.view.default, ATEN.flatten.using_ints)


def flatten_tokens(program: ExportedProgram) -> int:
    """Give linear layers, and what follows them on each position, lists of tokens [N, C] for maps; return how many.

    ONNX has a product with a bias for matrices alone, and a list has no layout in memory that a runtime would choose:
    OpenVINO takes channels-last maps [B, H, W, C] for [B, C, H, W] and turns them over and over.
    """
    graph, lists, flat = program.graph_module.graph, {}, 0

    def tokens(x: Any) -> Any:
        if x not in lists and x.target in VIEWS and _shape(x)[-1] == _shape(x.args[0])[-1]:
            lists[x] = tokens(x.args[0])
        elif x not in lists:
            lists[x] = _call(graph, ATEN.reshape.default, x, [-1, _shape(x)[-1]])
        return lists[x]

    for node in list(graph.nodes):
        if node.target not in (*PRODUCTS, *ALONE, *PAIRS, *VIEWS) or node.meta["val"].ndim < 3:
            continue
        x, *rest = node.args
        pair = node.target in PAIRS and not node.kwargs and isinstance(rest[0], Node) and _shape(x) == _shape(rest[0])
        with graph.inserting_before(node):
            if node.target in VIEWS and x in lists:
                node.replace_all_uses_with(_call(graph, ATEN.reshape.default, lists[x], _sizes(graph, node)))
                continue
            if node.target in PRODUCTS or (node.target in ALONE and x in lists):
                new = _call(graph, node.target, tokens(x), *rest, **node.kwargs)
            elif pair and (x in lists or rest[0] in lists):
                new = _call(graph, node.target, tokens(x), tokens(rest[0]))
            else:
                continue
            result = _call(graph, ATEN.reshape.default, new, [*_sizes(graph, x)[:-1], _shape(new)[1]])
        lists[result] = new
        node.replace_all_uses_with(result)
        flat += 1
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return flat


def _shape(node: Any) -> Any:
    """The shape of a tensor, None of a symbol."""
    return getattr(node.meta["val"], "shape", None)


def _sizes(graph: Any, node: Any) -> list[Any]:
    """The sizes of a tensor, numbers and nodes of symbols, without a use of a view."""
    if node.target is ATEN.flatten.using_ints:
        x, start, end = (*node.args, 0, -1) if len(node.args) == 1 else (*node.args, -1)[:3]
        sizes = _sizes(graph, x)
        return [*sizes[:start], -1, *sizes[end % len(sizes) + 1 :]]
    if node.target in VIEWS:
        return list(node.args[1])
    sizes = enumerate(_shape(node))
    return [size if isinstance(size, int) else _call(graph, ATEN.sym_size.int, node, axis) for axis, size in sizes]


def _call(graph: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
    """A new node with what it gives in its meta, as ``torch.export`` leaves it."""
    node = graph.call_function(target, args, kwargs)
    values = map_arg(args, lambda arg: arg.meta["val"])
    node.meta["val"] = target(*values, **kwargs)
    return node


def forget_bounds(program: ExportedProgram) -> None:
    """Let sizes be 1, and numbers of what is found 0 and 1, from which ``torch.export`` keeps them.

    So no size is a constant and no branch depends on one, but a graph without branches computes those, too.
    """
    graph, constraints = program.graph_module.graph, program.range_constraints
    for symbol, sizes in constraints.items():
        constraints[symbol] = type(sizes)(min(sizes.lower, 0 if str(symbol).startswith("u") else 1), sizes.upper)
    for node in list(graph.nodes):
        if node.target is ATEN._assert_scalar.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def forget_sources(program: ExportedProgram) -> None:
    """Leave out in whose folders the code lies that made each node, which would stay in the file."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)


PLACES = 2.0**22  # more than a map has, and twice as much still counts by ones in float32


def first_of_equal(program: ExportedProgram) -> ExportedProgram:
    """A copy in which the indices of the k largest are the first ones of equal values, as in other runtimes.

    Top-k takes any of them, but tells the least of the k largest. A second one takes what is above that, and behind it
    what equals it, by place. A stable sort would do, but ExecuTorch has none.
    """
    program = copy.deepcopy(program)
    graph = program.graph_module.graph
    for node in [node for node in graph.nodes if node.target is ATEN.topk.default]:
        x, k, dim, largest, order = (*node.args, *(-1, True, True)[len(node.args) - 2 :])
        if order or not largest or node.kwargs:  # whoever wants an order takes the values, too
            continue
        uses = list(node.users)
        with graph.inserting_before(node.next):
            least = _call(graph, ATEN.amin.default, _call(graph, operator.getitem, node, 0), [dim], True)
            groups = [
                _call(graph, ATEN.mul.Scalar, _call(graph, compare, x, least), PLACES)
                for compare in (ATEN.ge.Tensor, ATEN.gt.Tensor)
            ]
            place = _call(graph, ATEN.cumsum.default, _call(graph, ATEN.ones_like.default, x), dim)
            rank = _call(graph, ATEN.sub.Tensor, _call(graph, ATEN.add.Tensor, *groups), place)
            first = _call(graph, operator.getitem, _call(graph, ATEN.topk.default, rank, k, dim, True, False), 1)
            taken = _call(graph, ATEN.gather.default, x, dim, first), first
            for use in uses:
                use.replace_all_uses_with(taken[use.args[1]])
                graph.erase_node(use)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def forget_layout(program: ExportedProgram) -> None:
    """Take out what changes the layout of a map in memory, and nothing else."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is ATEN.contiguous.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    program.graph_module.recompile()
