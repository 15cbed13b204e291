"""The forward pass on a CPU: what lies between binary convolutions, in one operator.

    forward = training_forward(student)
    forward(pixels)["logits"]               # as student(pixels, training=True)["logits"]
    evaluation_forward(student)(pixels)     # as student(pixels, training=False), for validation

A student's graph is searched for batch normalisations, and each is joined with what stands around
it: a ReLU before it; a sum with a shortcut, a concatenation of several such sums, an activation, a
shift and a sign behind it. Every such chain runs as one native operator, on the weights of the very
same layers, and so does an average pool of 2x2 pixels. All other layers run as they are, and the
student itself does not change.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.native.ops import Activation, Branch, Chain, SignOf, mean_pool, norm_chain
from candle_tf.students.compute_policy import ComputePolicyLayer, compute_policy_of
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import RPReLU, Shift
from candle_tf.students.layers.quantizers import ApproxSign, SteSign

# A tensor of the graph, by the name that Keras gives it.
_Key = str
_Values = dict[_Key, Any]

# The mean and the variance of a batch norm's inputs, by the identity of the layer.
_Moments = dict[int, tuple[tf.Tensor, tf.Tensor]]


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


def training_forward(network: tf.keras.Model) -> Callable[[tf.Tensor], Any]:
    """How a network is called in training: natively where its layers' compute policy says so.

    Returns:
        A function of the inputs that gives the network's outputs with `training=True`.
    """
    return FusedForward(network) if is_native(network) else partial(network, training=True)


def evaluation_forward(network: tf.keras.Model) -> Callable[[tf.Tensor], Any]:
    """How a network is called on validation images: natively where its layers' policy says so.

    The operators compute in float32 then, and their sums of signs are exact. Of the plain
    composition, which scales before it sums, results differ by rounding: where that decides a sign,
    by more. Figures that are reported at the end, and export, use the plain one.

    Returns:
        A function of the inputs that gives the network's outputs with `training=False`, without
        gradients.
    """
    if not is_native(network):
        return partial(network, training=False)
    return FusedForward(network, training=False, dtype=tf.float32)


def forward_of(network: tf.keras.Model, training: bool) -> Callable[[tf.Tensor], Any]:
    """`training_forward` or `evaluation_forward`."""
    return training_forward(network) if training else evaluation_forward(network)


def is_native(network: tf.keras.Model) -> bool:
    """Whether a network is a functional model whose layers are to use the native operators."""
    return hasattr(network, "_nodes_by_depth") and any(
        layer.compute_policy.native
        for layer in network.submodules
        if isinstance(layer, ComputePolicyLayer)
    )


def batch_moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance, each `[C]`, of `[B, ..., C]`."""
    mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
    return mean, variance


class FusedForward:
    """A student's forward pass by native operators.

    Args:
        network: a functional Keras model.
        training: whether batch norms use and update the statistics of the batch.
        dtype: of the operands of binary convolutions; by default that of the compute policy.
    """

    def __init__(
        self, network: tf.keras.Model, *, training: bool = True, dtype: tf.DType | None = None
    ) -> None:
        self._network = network
        self._training = training
        self._dtype = dtype or tf.as_dtype(compute_policy_of(network).dtype)
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
        """The network's outputs for a batch; in training updates the moving statistics."""
        return self._run(inputs, None)

    def batch_moments(
        self, inputs: tf.Tensor, layers: Sequence[Any]
    ) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """The means and variances over a batch of what batch norms get as inputs in training.

        The moving statistics of batch norms that run in a native operator stay as they are.

        Args:
            inputs: of the network.
            layers: batch norms of the network.

        Returns:
            Two float32 [C] for each of them.
        """
        moments: _Moments = {}
        self._run(inputs, moments)
        return [moments[id(layer)] for layer in layers]

    def _run(self, inputs: tf.Tensor, moments: _Moments | None) -> Any:
        """The outputs; gathers the moments of batch norms, or updates the moving statistics."""
        network = self._network
        values: _Values = {self._graph.key(network.inputs[0]): inputs}
        for step in self._steps:
            if isinstance(step, _Chain):
                self._run_chain(step, values, moments)
            elif isinstance(step.layer, BinaryConv2D) and step.layer.may_run_natively(
                values[step.flat_input_ids[0]]
            ):
                bare = step in self._bare and not step.layer.use_bias
                run = step.layer.convolve_natively if bare else step.layer.call_natively
                values[step.flat_output_ids[0]] = run(values[step.flat_input_ids[0]], self._dtype)
            elif _is_mean_pool(step.layer):
                values[step.flat_output_ids[0]] = mean_pool(values[step.flat_input_ids[0]])
            else:
                self._run_layer(step, values, moments)
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

    def _run_layer(self, node: Any, values: _Values, moments: _Moments | None) -> None:
        given = {key: [values[key]] * node.flat_input_ids.count(key) for key in node.flat_input_ids}
        args, kwargs = node.map_arguments(given)
        if node.layer._call_spec.expects_training_arg:
            kwargs["training"] = self._training
        if moments is not None and isinstance(node.layer, tf.keras.layers.BatchNormalization):
            moments[id(node.layer)] = batch_moments(values[node.flat_input_ids[0]])
        outputs = tf.nest.flatten(node.layer(*args, **kwargs))
        values.update(zip(node.flat_output_ids, outputs, strict=True))

    def _run_chain(self, chain: _Chain, values: _Values, moments: _Moments | None) -> None:
        first = chain.branches[0]
        branches = [_branch(branch, values[branch.source]) for branch in chain.branches]
        result = norm_chain(
            branches,
            epsilon=first.layer.epsilon,
            relu=first.relu,
            shortcut=None if first.shortcut is None else values[first.shortcut],
            activation=_activation(chain.activation, chain),
            sign=_sign(chain, branches, self._dtype),
            statistics=None if self._training else _moving_statistics(chain),
        )
        values[chain.output] = result.y
        if chain.sign_output is not None:
            values[chain.sign_output] = result.signs
        if moments is not None:
            moments.update(_moments_of(chain, branches, result))
        elif self._training:
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


def _moving_statistics(chain: _Chain) -> tuple[tf.Tensor, tf.Tensor]:
    layers = [branch.layer for branch in chain.branches]
    means, variances = zip(*((b.moving_mean, b.moving_variance) for b in layers), strict=True)
    return tf.concat(means, axis=0), tf.concat(variances, axis=0)


def _moments_of(chain: _Chain, branches: list[Branch], result: Chain) -> _Moments:
    """The mean and the variance of what a chain's batch norms had as inputs, by batch norm."""
    count = len(branches)
    means, variances = tf.split(result.mean, count), tf.split(result.variance, count)
    found: _Moments = {}
    for normalized, branch, mean, variance in zip(
        chain.branches, branches, means, variances, strict=True
    ):
        scale = 1.0 if branch.scale is None else branch.scale
        found[id(normalized.layer)] = (scale * mean, scale * scale * variance)
    return found


def _sign(chain: _Chain, branches: list[Branch], dtype: tf.DType) -> SignOf | None:
    if chain.sign is None:
        return None
    channels = sum(branch.gamma.shape[0] for branch in branches)
    shift = tf.zeros([channels])
    if chain.shift is not None:
        shift = tf.convert_to_tensor(chain.shift.offset)
    # The operator does not write float32 signs of bfloat16 maps.
    dtype = tf.bfloat16 if branches[0].x.dtype == tf.bfloat16 else dtype
    clip = None if isinstance(chain.sign, ApproxSign) else chain.sign.clip_value
    return SignOf(shift, dtype, clip)
