"""Graphs in 8-bit integers: the LSTMs of separators; the convolutions of visual frontends, by ranges from real mouths.

Both were chosen by measurement (docs/export.md): the integer forms of other operators are no faster, or lose more.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from utils.errors import UserError
from utils.export.graphs import OnnxModule, Tensors, quietly

LEAST_SDR_DB = 25.0  # of a quantised graph's first output against that of the graph itself; less is refused


def quantise_lstms(path: Path, target: Path, inputs: Sequence[Tensors]) -> float:
    """Write a graph whose LSTMs have 8-bit weights; what they get is quantised as it comes.

    Args:
        path: of the graph.
        target: to be written.
        inputs: what it is tried with.

    Returns:
        How much louder its first output is than what this changes of it, dB.

    Raises:
        UserError: it has no LSTM, or too much is lost.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not any(node.op_type == "LSTM" for node in onnx.load(str(path)).graph.node):
        raise UserError("--int8: of separators only LSTMs are quantised, and this network has none; leave it out")
    with quietly():
        quantize_dynamic(path, target, op_types_to_quantize=["LSTM"], weight_type=QuantType.QInt8, per_channel=True)
    return _sdr_db(path, target, inputs)


def quantise_convolutions(path: Path, target: Path, typical: Sequence[Tensors], inputs: Sequence[Tensors]) -> float:
    """Write a graph whose convolutions but the first compute in 8 bits; arguments, result and errors as of `quantise_lstms`.

    The first one sees the picture: in 8 bits it cost 1.4 dB of SDR, and no time was gained.

    Args:
        path, target, inputs: see there.
        typical: other inputs of one shape, whose largest values (all but one in 100,000) decide what 8 bits stand for.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = _named(path, typical)

        def get_next(self) -> Mapping | None:
            return next(self.left, None)

    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    ranges = {"calibrate_method": CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": 99.999}}
    # CPUs without VNNI add two products in 16 bits: weights of 7 bits keep them from overflowing, and cost 0.1 dB
    how = types | ranges | {"op_types_to_quantize": ["Conv"], "reduce_range": True}
    with quietly(), TemporaryDirectory() as scratch, redirect_stdout(StringIO()):  # where onnxruntime writes what it does
        prepared = Path(scratch, "prepared.onnx")
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        first = next(node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv")
        quantize_static(prepared, target, Reader(), QuantFormat.QDQ, nodes_to_exclude=[first], **how)
    return _sdr_db(path, target, inputs)


def _sdr_db(path: Path, quantised: Path, inputs: Sequence[Tensors]) -> float:
    modules = OnnxModule(path), OnnxModule(quantised)
    signal = noise = torch.zeros((), dtype=torch.float64)
    for each in inputs:
        outputs = (module(*each) for module in modules)
        wanted, given = (each[0] if isinstance(each, tuple) else each for each in outputs)
        signal = signal + wanted.double().square().sum()
        noise = noise + (wanted.double() - given).square().sum()
    found = 10 * float(torch.log10(signal / noise))
    if not found >= LEAST_SDR_DB:
        raise UserError(f"--int8: leaves {found:.1f} dB of SDR, and {LEAST_SDR_DB:g} dB are the least; leave it out")
    return found


def _named(path: Path, inputs: Sequence[Tensors]) -> Iterator[Mapping]:
    names = OnnxModule(path).names
    return ({name: tensor.numpy() for name, tensor in zip(names, each, strict=True)} for each in inputs)
