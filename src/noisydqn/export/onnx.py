"""Export to ONNX: a graph from raw observations to action values and the greedy action."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from noisydqn.dimensions import firsts
from noisydqn.envs.actions import Actions, numbers_of, sizes_of
from noisydqn.envs.spaces import Discrete
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import MissingExtraError
from noisydqn.export.graph import input_structs, policy_values
from noisydqn.export.operations import Padding
from noisydqn.learner.policy import Policy
from noisydqn.types import Mixed

OPSET, IR_VERSION = 17, 9  # from 2022 and 2023, which most runtimes support
INPUT, MASK, VALUES, ACTION = "observation", "action_mask", "values", "action"

try:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper
except ImportError as error:
    raise MissingExtraError(
        "--format onnx needs packages that are not installed: pip install 'noisydqn[onnx]'"
    ) from error


class _Writer:
    """Operations that record nodes of a graph; a tensor is its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def to_float(self, x: str) -> str:
        return self.node("Cast", x, to=onnx.TensorProto.FLOAT)

    def add(self, x: str, y: str) -> str:
        return self.node("Add", x, y)

    def subtract(self, x: str, y: str) -> str:
        return self.node("Sub", x, y)

    def multiply(self, x: str, y: str) -> str:
        return self.node("Mul", x, y)

    def divide(self, x: str, y: str) -> str:
        return self.node("Div", x, y)

    def clip(self, x: str, bound: float) -> str:
        low, high = (self.constant(np.array(b, np.float32)) for b in (-bound, bound))
        return self.node("Clip", x, low, high)

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def tanh(self, x: str) -> str:
        return self.node("Tanh", x)

    def matmul(self, x: str, y: str) -> str:
        return self.node("MatMul", x, y)

    def mean(self, x: str, axis: int) -> str:
        return self.node("ReduceMean", x, axes=[axis], keepdims=1)

    def softmax(self, x: str) -> str:
        return self.node("Softmax", x, axis=-1)

    def only(self, x: str, mask: str) -> str:
        return self.node("Where", mask, x, self.constant(np.array(-np.inf, np.float32)))

    def layer_norm(self, x: str, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> str:
        constants = self.constant(weight), self.constant(bias)
        return self.node("LayerNormalization", x, *constants, axis=-1, epsilon=epsilon)

    def transpose(self, x: str, axes: tuple[int, ...]) -> str:
        return self.node("Transpose", x, perm=list(axes))

    def reshape(self, x: str, shape: tuple[int, ...]) -> str:
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)))

    def concatenate(self, parts: list[str], axis: int) -> str:
        return self.node("Concat", *parts, axis=axis)

    def conv(
        self, x: str, kernel: np.ndarray, bias: np.ndarray, stride: int, padding: Padding
    ) -> str:
        constants = self.constant(kernel), self.constant(bias)
        return self.node("Conv", x, *constants, strides=[stride] * 2, pads=_pads(padding))

    def max_pool(self, x: str, size: int, stride: int, padding: Padding) -> str:
        windows: dict[str, Any] = {"kernel_shape": [size] * 2, "strides": [stride] * 2}
        return self.node("MaxPool", x, pads=_pads(padding), **windows)

    def part(self, x: str, axis: int, start: int, end: int) -> str:
        places = (self.constant(np.array([place], np.int64)) for place in (start, end, axis))
        return self.node("Slice", x, *places)

    def max(self, x: str, axis: int) -> str:
        return self.node("ReduceMax", x, axes=[axis], keepdims=1)


def _pads(padding: Padding) -> list[int]:
    """Return all starts and then all ends, as ONNX lists them."""
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]


def write(path: Path, policy: Policy, spec: EnvironmentSpec, card: str) -> None:
    """Write a policy as ONNX, with the card among its metadata.

    The input is `observation` [batch, ...], encoded as the replay buffer stores it. Images and
    vectors are an input each, such as `observation.arm.camera`. The outputs are `values` [batch, A]
    and `action` [batch], the greedy action by the environment's own number. Where actions are
    arrays, it is [batch, ...], and A counts the choices of all their elements. With action masks
    another input is `action_mask`, bool [batch, A]; the value of an invalid action is -infinity.

    Raises:
        UserError: as `policy_values`.
    """
    structs = input_structs(policy, spec.observation)
    names = _input_names(structs)
    writer = _Writer()
    mask = MASK if spec.masked else None
    values = policy_values(policy, writer, names, spec.observation, mask)
    writer.nodes.append(helper.make_node("Identity", [values], [VALUES]))
    actions = _write_action(writer, spec.encoding.actions)
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype)), ["batch", *x.shape]
        )
        for name, x in zip(jax.tree.leaves(names), jax.tree.leaves(structs), strict=True)
    ]
    if spec.masked:
        masks = ["batch", spec.num_actions]
        inputs.append(helper.make_tensor_value_info(MASK, onnx.TensorProto.BOOL, masks))
    outputs = [
        helper.make_tensor_value_info(VALUES, onnx.TensorProto.FLOAT, ["batch", spec.num_actions]),
        actions,
    ]
    graph = helper.make_graph(writer.nodes, "policy", inputs, outputs, writer.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="noisydqn"
    )
    helper.set_model_props(model, {"noisydqn-card": card})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _write_action(writer: _Writer, actions: Actions) -> onnx.ValueInfoProto:
    """Write the greedy action; returns its type and shape."""
    if isinstance(actions, Discrete):
        place = writer.node("ArgMax", VALUES, axis=-1, keepdims=0)
        first = writer.constant(np.array(actions.start, np.int64))
        writer.nodes.append(helper.make_node("Add", [place, first], [ACTION]))
        return helper.make_tensor_value_info(ACTION, onnx.TensorProto.INT64, ["batch"])
    sizes, numbers = sizes_of(actions), numbers_of(actions)
    chosen: list[str] = []
    for start, size in zip(map(int, firsts(sizes)), sizes, strict=True):
        part = writer.part(VALUES, 1, start, start + size)
        place = writer.node("ArgMax", part, axis=-1, keepdims=1)
        chosen.append(writer.add(place, writer.constant(np.array(start, np.int64))))
    found = writer.node("Gather", writer.constant(numbers), writer.concatenate(chosen, 1))
    shape = writer.constant(np.array((-1, *actions.shape), np.int64))
    writer.nodes.append(helper.make_node("Reshape", [found, shape], [ACTION]))
    kind = helper.np_dtype_to_tensor_dtype(numbers.dtype)
    return helper.make_tensor_value_info(ACTION, kind, ["batch", *actions.shape])


def _input_names(observation: Any) -> Any:
    """Return the name of the input, or a `Mixed` of names."""
    if not isinstance(observation, Mixed):
        return INPUT
    return Mixed(*({path: f"{INPUT}.{path}" for path in parts} for parts in observation))


def read_values(path: Path, observations: Any, masks: np.ndarray | None = None) -> np.ndarray:
    """Compute action values [B, A] from the file with onnxruntime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = jax.tree.leaves(_input_names(observations))
    given = dict(zip(names, jax.tree.leaves(observations), strict=True))
    if masks is not None:
        given[MASK] = masks
    (values,) = session.run([VALUES], given)
    return np.asarray(values)
