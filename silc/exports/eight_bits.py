"""Make an ONNX graph smaller: 8 bits and a scale for each output of a linear layer, 16 bits for tables of tokens.

Everything is computed in float32, so a runtime needs no special kernels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

LEAST = 4096
"""Fewest numbers of a weight for which this is worth it."""


def lighten(model: Any) -> None:
    """Make the weights of an `onnx.ModelProto` smaller, in place."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    _turn_weights(graph)
    users = _users(graph)
    before = []  # nodes that make weights, ahead of those that use them
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < LEAST or len(tensor.dims) != 2:
            continue
        if (axis := _outputs(users[tensor.name])) is not None:
            values, scales = rounded(numpy_helper.to_array(tensor), axis)
            light, scale = f"{tensor.name}.int8", f"{tensor.name}.scale"
            added = [numpy_helper.from_array(values, light), numpy_helper.from_array(scales, scale)]
            before.append(helper.make_node("DequantizeLinear", [light, scale], [tensor.name], axis=axis))
        elif users[tensor.name] and all(node.op_type == "Gather" and at == 0 for node, at in users[tensor.name]):
            light = f"{tensor.name}.half"
            added = [numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), light)]
            for node, _ in users[tensor.name]:  # rows are looked up first: the whole table is never made in float32
                node.input[0] = light
                _cast_after(graph, node)
        else:
            continue
        graph.initializer.remove(tensor)
        graph.initializer.extend(added)
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def rounded(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and float32 scales (one for each index of `axis`), whose product is nearest to the weight [., .]."""
    largest = np.abs(weight).max(axis=1 - axis)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weight / np.expand_dims(scales, 1 - axis)).astype(np.int8), scales


def _users(graph: Any) -> dict[str, list[tuple[Any, int]]]:
    """For each name, the nodes that read it, with the position of that input."""
    users = defaultdict(list)
    for node in graph.node:
        for at, name in enumerate(node.input):
            users[name].append((node, at))
    return users


def _turn_weights(graph: Any) -> None:
    """Replace a weight that is read only through Transpose nodes by one transposed copy, and remove these nodes."""
    from onnx import numpy_helper

    users = _users(graph)
    for tensor in list(graph.initializer):
        nodes = [node for node, _ in users[tensor.name]]
        if len(tensor.dims) != 2 or not nodes or any(node.op_type != "Transpose" for node in nodes):
            continue
        turned = f"{tensor.name}.turned"
        graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor).T.copy(), turned))
        graph.initializer.remove(tensor)
        for node in nodes:
            for reader, at in users[node.output[0]]:
                reader.input[at] = turned
            graph.node.remove(node)


def _outputs(users: list[tuple[Any, int]]) -> int | None:
    """The axis of a weight's outputs; None if not only linear layers use it, or they use it in different ways."""
    axes = set()
    for node, at in users:
        if node.op_type not in ("MatMul", "Gemm") or at != 1:
            return None
        turned = any(one.name == "transB" and one.i for one in node.attribute)
        axes.add(0 if turned else 1)
    return axes.pop() if len(axes) == 1 else None


def _cast_after(graph: Any, node: Any) -> None:
    """Cast a node's output to float32; the result has the output's old name."""
    from onnx import TensorProto, helper

    name, place = node.output[0], list(graph.node).index(node)
    node.output[0] = f"{name}.half"
    graph.node.insert(place + 1, helper.make_node("Cast", [node.output[0]], [name], to=TensorProto.FLOAT))
