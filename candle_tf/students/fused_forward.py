"""The forward pass of training on a CPU: what lies between binary convolutions, in one operator.

    forward = training_forward(student)
    forward(pixels)["logits"]               # as student(pixels, training=True)["logits"]

A student's graph is searched for batch normalisations, and each is joined with what stands around
it: a ReLU before it; a sum with a shortcut, a concatenation of several such sums, an activation, a
shift and a sign behind it. Every such chain runs as one native operator, on the weights of the very
same layers, and so does an average pool of 2x2 pixels. All other layers run as they are, and the
student itself does not change.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.native.ops import Activation, Branch, SignOf, mean_pool, norm_chain
from candle_tf.students.compute_policy import ComputePolicyLayer
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import RPReLU, Shift
from candle_tf.students.layers.quantizers import ApproxSign, SteSign

# A tensor of the graph, by the name that Keras gives it.
_Key = str
_Values = dict[_Key, Any]


@dataclass(frozen=True)
class _Normalized:
    """A batch normalisation with what is before it and its sum with a shortcut."""

    layer: Any
    source: _Key
    relu: bool
    shortcut: _Key | None
    output: _Key
    nodes: tuple[Any, ...]


@dataclass(frozen=True)
class _Chain:
    """What runs as one operator: normalisations with one shortcut, and what follows them."""

    branches: tuple[_Normalized, ...]
    output: _Key
    nodes: tuple[Any, ...]
    activation: Any = None
    shift: Any = None
    sign: Any = None
    sign_output: _Key | None = None
    sign_reader: Any = None


def training_forward(network: tf.keras.Model) -> Callable[[tf.Tensor], Any]:
    """How a network is called in training: natively where its layers' compute policy says so.

    Returns:
        A function of the inputs that gives the network's outputs with `training=True`.
    """
    return FusedForward(network) if is_native(network) else partial(network, training=True)


def is_native(network: tf.keras.Model) -> bool:
    """Whether a network is a functional model whose layers are to use the native operators."""
    return hasattr(network, "_nodes_by_depth") and any(
        layer.compute_policy.native
        for layer in network.submodules
        if isinstance(layer, ComputePolicyLayer)
    )


class FusedForward:
    """A student's forward pass in training by native operators.

    Args:
        network: a functional Keras model.
    """

    def __init__(self, network: tf.keras.Model) -> None:
        self._network = network
        self._graph = _Graph(network)
        chains = list(_chains(self._graph))
        starts = {branch.source for chain in chains for branch in chain.branches}
        # Convolutions whose output only chains read: these apply the scale.
        self._bare = {
            node
            for node in self._graph.nodes
            if isinstance(node.layer, BinaryConv2D)
            and node.flat_output_ids[0] in starts
            and self._graph.only_reader(node.flat_output_ids[0]) is not None
        }
        self._steps = self._order_steps(chains)

    @property
    def fused(self) -> int:
        """How many batch normalisations run in a native operator."""
        return sum(len(step.branches) for step in self._steps if isinstance(step, _Chain))

    def __call__(self, inputs: tf.Tensor) -> Any:
        """The network's outputs for a batch; updates the moving statistics."""
        network = self._network
        values: _Values = {self._graph.key(network.inputs[0]): inputs}
        for step in self._steps:
            if isinstance(step, _Chain):
                self._run_chain(step, values)
            elif step in self._bare and step.layer.may_run_bare(values[step.flat_input_ids[0]]):
                source = values[step.flat_input_ids[0]]
                values[step.flat_output_ids[0]] = step.layer.convolve_natively(source)
            elif _is_mean_pool(step.layer):
                values[step.flat_output_ids[0]] = mean_pool(values[step.flat_input_ids[0]])
            else:
                self._run_layer(step, values)
        outputs = [values[self._graph.key(tensor)] for tensor in network.outputs]
        return tf.nest.pack_sequence_as(network._nested_outputs, outputs)

    def _order_steps(self, chains: list[_Chain]) -> list[Any]:
        """Chains and the other layers, each after what it reads."""
        of_node = {id(node): chain for chain in chains for node in chain.nodes}
        last: dict[int, Any] = {}
        for node in self._graph.nodes:
            chain = of_node.get(id(node))
            # A chain runs where its last normalisation or shortcut stood: all it reads is there.
            if chain is not None and id(node) in {id(n) for b in chain.branches for n in b.nodes}:
                last[id(chain)] = node
        steps: list[Any] = []
        for node in self._graph.nodes:
            chain = of_node.get(id(node))
            if chain is None:
                steps.append(node)
            elif last[id(chain)] is node:
                steps.append(chain)
        return steps

    def _run_layer(self, node: Any, values: _Values) -> None:
        given = {key: [values[key]] * node.flat_input_ids.count(key) for key in node.flat_input_ids}
        args, kwargs = node.map_arguments(given)
        if node.layer._call_spec.expects_training_arg:
            kwargs["training"] = True
        outputs = tf.nest.flatten(node.layer(*args, **kwargs))
        values.update(zip(node.flat_output_ids, outputs, strict=True))

    def _run_chain(self, chain: _Chain, values: _Values) -> None:
        first = chain.branches[0]
        branches = [_branch(branch, values[branch.source]) for branch in chain.branches]
        result = norm_chain(
            branches,
            epsilon=first.layer.epsilon,
            relu=first.relu,
            shortcut=None if first.shortcut is None else values[first.shortcut],
            activation=_activation(chain.activation, chain),
            sign=_sign(chain, branches),
        )
        values[chain.output] = result.y
        if chain.sign_output is not None:
            values[chain.sign_output] = result.signs
        self._update(chain, result.batch_mean, result.batch_variance)

    @staticmethod
    def _update(chain: _Chain, means: tf.Tensor, variances: tf.Tensor) -> None:
        count = len(chain.branches)
        for branch, mean, variance in zip(
            chain.branches, tf.split(means, count), tf.split(variances, count), strict=True
        ):
            layer = branch.layer
            for variable, value in (
                (layer.moving_mean, mean),
                (layer.moving_variance, variance),
            ):
                variable.assign_sub((variable - value) * (1.0 - layer.momentum))


class _Graph:
    """The nodes of a functional model in the order of computation, and who reads what."""

    def __init__(self, network: tf.keras.Model) -> None:
        by_depth = network._nodes_by_depth
        self.nodes = [
            node
            for depth in sorted(by_depth, reverse=True)
            for node in by_depth[depth]
            if not node.is_input
        ]
        self.makers = {key: node for node in self.nodes for key in node.flat_output_ids}
        self.readers: dict[_Key, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for key in dict.fromkeys(node.flat_input_ids):
                self.readers[key].append(node)
        for tensor in network.outputs:
            self.readers[self.key(tensor)].append(None)
        made = [tensor for node in self.nodes for tensor in tf.nest.flatten(node.outputs)]
        self.shapes = {self.key(tensor): tensor.shape for tensor in (*network.inputs, *made)}

    @staticmethod
    def key(tensor: Any) -> _Key:
        """Keras's name of a symbolic tensor."""
        return str(id(tensor))

    def only_reader(self, key: _Key) -> Any:
        """The node that alone reads a tensor; None where there is none or more."""
        readers = self.readers[key]
        return readers[0] if len(readers) == 1 else None


def _chains(graph: _Graph) -> Iterator[_Chain]:
    normalized: list[_Normalized] = []
    taken: set[int] = set()
    for node in graph.nodes:
        found = _match_norm(graph, node, taken)
        if found is not None:
            normalized.append(found)
            taken |= {id(n) for n in found.nodes}
    by_output = {each.output: each for each in normalized}
    joined: set[_Key] = set()
    for each in normalized:
        if each.output in joined:
            continue
        chain = _Chain((each,), each.output, each.nodes)
        reader = graph.only_reader(each.output)
        if reader is not None and isinstance(reader.layer, tf.keras.layers.Concatenate):
            parts = [by_output[key] for key in reader.flat_input_ids if key in by_output]
            if _may_join(graph, reader, parts):
                nodes = (*(node for part in parts for node in part.nodes), reader)
                chain = _Chain(tuple(parts), reader.flat_output_ids[0], nodes)
                joined |= {part.output for part in parts}
        yield _with_sign(graph, _with_activation(graph, chain))


def _match_norm(graph: _Graph, node: Any, taken: set[int]) -> _Normalized | None:
    """The normalisation at a node; a sum of two normalisations belongs to the first."""
    layer = node.layer
    if not _is_usual_norm(layer, graph.shapes[node.flat_output_ids[0]]):
        return None
    source, output = node.flat_input_ids[0], node.flat_output_ids[0]
    nodes = [node]
    before = graph.makers.get(source)
    relu = False
    if before is not None and _is_relu(before.layer) and graph.only_reader(source) is node:
        relu, source = True, before.flat_input_ids[0]
        nodes.append(before)
    shortcut = None
    after = graph.only_reader(output)
    if after is not None and id(after) not in taken and _is_sum(after):
        others = [key for key in after.flat_input_ids if key != output]
        if len(others) == 1 and _alike(graph, others[0], output):
            shortcut, output = others[0], after.flat_output_ids[0]
            nodes.append(after)
    return _Normalized(layer, source, relu, shortcut, output, tuple(nodes))


def _may_join(graph: _Graph, concatenate: Any, parts: list[_Normalized]) -> bool:
    """Whether a concatenation is of channels, and of normalisations that have all in common."""
    if len(parts) < len(concatenate.flat_input_ids) or concatenate.layer.axis not in (-1, 3):
        return False
    first = parts[0]
    return all(
        graph.only_reader(part.output) is concatenate
        and _alike(graph, part.output, first.output)
        and (part.shortcut, part.relu) == (first.shortcut, first.relu)
        and part.layer.epsilon == first.layer.epsilon
        for part in parts
    )


def _with_activation(graph: _Graph, chain: _Chain) -> _Chain:
    reader = graph.only_reader(chain.output)
    if reader is None or not _is_activation(reader.layer):
        return chain
    return replace(
        chain,
        output=reader.flat_output_ids[0],
        nodes=(*chain.nodes, reader),
        activation=reader.layer,
    )


def _with_sign(graph: _Graph, chain: _Chain) -> _Chain:
    for reader in graph.readers[chain.output]:
        if reader is None:
            continue
        shift, node = None, reader
        if isinstance(reader.layer, Shift):
            shift, node = reader.layer, graph.only_reader(reader.flat_output_ids[0])
        if node is None or not _is_sign(node.layer):
            continue
        signs = node.flat_output_ids[0]
        # Other layers could not read what is a convolution's operand.
        if all(r is not None and isinstance(r.layer, BinaryConv2D) for r in graph.readers[signs]):
            own = (node,) if shift is None else (reader, node)
            return replace(
                chain,
                nodes=(*chain.nodes, *own),
                shift=shift,
                sign=node.layer,
                sign_output=signs,
                sign_reader=graph.readers[signs][0].layer,
            )
    return chain


def _is_usual_norm(layer: Any, shape: tf.TensorShape) -> bool:
    return (
        type(layer) is tf.keras.layers.BatchNormalization
        and list(layer.axis) == [len(shape) - 1]
        and layer.scale
        and layer.center
        and layer.trainable
        and layer.compute_dtype == "float32"
    )


def _is_mean_pool(layer: Any) -> bool:
    """Whether a layer halves the sides by means, as shortcuts do."""
    return type(layer) is tf.keras.layers.AveragePooling2D and (
        layer.pool_size == layer.strides == (2, 2)
        and layer.padding == "same"
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
    )


def _is_activation(layer: Any) -> bool:
    return isinstance(layer, RPReLU) or _is_relu(layer) or _is_prelu(layer)


def _is_relu(layer: Any) -> bool:
    return type(layer) is tf.keras.layers.ReLU and (
        layer.max_value is None and layer.negative_slope == 0 and layer.threshold == 0
    )


def _is_prelu(layer: Any) -> bool:
    return (
        type(layer) is tf.keras.layers.PReLU
        and layer.alpha.shape.num_elements() == (layer.alpha.shape[-1])
    )


def _is_sign(layer: Any) -> bool:
    return isinstance(layer, ApproxSign | SteSign | lq.quantizers.SteSign)


def _is_sum(node: Any) -> bool:
    if type(node.layer) is tf.keras.layers.Add:
        return True
    function = getattr(node.layer, "function", None)
    return function in (tf.math.add, tf.__operators__.add) and len(node.flat_input_ids) == 2


def _alike(graph: _Graph, one: _Key, other: _Key) -> bool:
    return graph.shapes[one].as_list() == graph.shapes[other].as_list()


def _branch(branch: _Normalized, source: Any) -> Branch:
    """The normalisation's weights and input; a bare convolution gives that as values and scale."""
    x, scale = source if isinstance(source, tuple) else (source, None)
    gamma, beta = map(tf.convert_to_tensor, (branch.layer.gamma, branch.layer.beta))
    return Branch(x, gamma, beta, scale)


def _activation(layer: Any, chain: _Chain) -> Activation | None:
    if layer is None:
        return None
    if isinstance(layer, RPReLU):
        learned = (layer.shift_in, layer.slope, layer.shift_out)
        return Activation(*map(tf.convert_to_tensor, learned))
    channels = sum(branch.layer.gamma.shape[0] for branch in chain.branches)
    none = tf.zeros([channels])
    slope = none if _is_relu(layer) else tf.convert_to_tensor(layer.alpha)
    return Activation(none, slope, none)


def _sign(chain: _Chain, branches: list[Branch]) -> SignOf | None:
    if chain.sign is None:
        return None
    channels = sum(branch.gamma.shape[0] for branch in branches)
    shift = tf.zeros([channels])
    if chain.shift is not None:
        shift = tf.convert_to_tensor(chain.shift.offset)
    dtype = tf.as_dtype(chain.sign_reader.compute_policy.dtype)
    # The operator does not write float32 signs of bfloat16 maps.
    dtype = tf.bfloat16 if branches[0].x.dtype == tf.bfloat16 else dtype
    clip = None if isinstance(chain.sign, ApproxSign) else chain.sign.clip_value
    return SignOf(shift, dtype, clip)
