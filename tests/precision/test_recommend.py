import json
from dataclasses import fields

from ampguard.hardware import cpu_hardware, cuda_hardware, inspect
from ampguard.precision import NAMES, doctor, doctor_record, recommend
from ampguard.precision.rates import Rate, Rates


def test_the_record_is_the_contract_of_doctor():
    record = doctor_record(cuda_hardware("NVIDIA H200", (9, 0)))
    assert list(record) == ["schema", "device", "precisions", "settings", "recommendation"]
    assert record["device"] == "NVIDIA H200 (CUDA)"
    assert [row["precision"] for row in record["precisions"]] == list(NAMES)
    facts, figures = ["precision", "support", "source"], [field.name for field in fields(Rate)]
    assert all(list(row) == facts + figures for row in record["precisions"])
    assert figures[0] == "measured_tflops"
    assert record["recommendation"] == {"precision": "bf16-mixed", "why": "native on NVIDIA H200"}


def test_nothing_is_measured_unless_asked():
    record = doctor("cpu")
    assert record["settings"] is None
    assert {row[field.name] for row in record["precisions"] for field in fields(Rate)} == {None}


def test_measured_figures_stand_in_the_rows_of_their_precision():
    rates = Rates(settings={"threads": 2}, by_precision={"tf32": Rate(measured_tflops=300.0)})
    record = doctor_record(cuda_hardware("NVIDIA H200", (9, 0)), rates)
    assert record["settings"] == {"threads": 2}
    assert {row["precision"]: row["measured_tflops"] for row in record["precisions"]} == {
        name: 300.0 if name == "tf32" else None for name in NAMES
    }


def test_a_precision_measured_slower_than_fp32_is_not_recommended():
    rates = Rates(by_precision={"bf16-mixed": Rate(slower_than_fp32=True)})
    precision, why = recommend(cuda_hardware("NVIDIA H200", (9, 0)), rates)
    assert precision == "fp32"
    assert why == "bf16-mixed is native on NVIDIA H200, and was measured slower than fp32"


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
