import json

from ampguard.hardware import cpu_hardware, cuda_hardware, inspect
from ampguard.precision import NAMES, doctor_record


def test_the_record_is_the_contract_of_doctor():
    record = doctor_record(cuda_hardware("NVIDIA H200", (9, 0)))
    assert list(record) == ["schema", "device", "precisions", "recommendation"]
    assert record["device"] == "NVIDIA H200 (CUDA)"
    assert [row["precision"] for row in record["precisions"]] == list(NAMES)
    assert {tuple(row) for row in record["precisions"]} == {("precision", "support", "source", "measured_tflops")}
    assert {row["measured_tflops"] for row in record["precisions"]} == {None}
    assert record["recommendation"] == {"precision": "bf16-mixed", "why": "native on NVIDIA H200"}


def test_a_bf16_cpu_gets_no_answer_that_only_the_model_can_give():
    cpu = cpu_hardware("model name : Xeon\nflags : avx512_bf16\n", machine="x86_64", torch_bf16=True)
    recommendation = doctor_record(cpu)["recommendation"]
    assert recommendation["precision"] == "auto"
    assert "times your model" in recommendation["why"]


def test_a_plain_cpu_is_told_fp32():
    cpu = cpu_hardware("model name : Xeon\nflags : sse\n", machine="x86_64", torch_bf16=True)
    assert doctor_record(cpu)["recommendation"]["precision"] == "fp32"


def test_this_machine_has_a_record_that_is_json():
    record = doctor_record(inspect())
    assert json.loads(json.dumps(record)) == record
