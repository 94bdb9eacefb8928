import json
from dataclasses import asdict

import pytest
from rich.console import Console

from ampguard.cli import doctor
from ampguard.hardware import cpu_hardware, cuda_hardware
from ampguard.precision import blocks, doctor_record
from ampguard.precision.rates import Rate, Rates


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(blocks, "SIZES", (8, 16))
    for name in ("BLOCK_S", "LONG_S", "SIZING_S"):
        monkeypatch.setattr(blocks, name, 1e-5)
    monkeypatch.setattr(blocks, "TRIAD_BYTES", 64)


def shown(record):
    console = Console(width=160, file=None)
    with console.capture() as captured:
        console.print(doctor.table(record))
    return captured.get()


def h200(**rates):
    """Return the record of a device with native bf16, fp16 and tf32, measured as given."""
    settings = {"torch": "2.13.0", "threads": 8, "triad_array_bytes": 2**27, "load_average": None, "cores": 16}
    by_precision = {name.replace("_", "-"): rate for name, rate in rates.items()}
    return doctor_record(cuda_hardware("NVIDIA H200", (9, 0)), Rates(settings=settings, by_precision=by_precision))


def rate(tflops, *, ratio=2.0, slower=False, iqr=0.5):
    return Rate(
        measured_tflops=tflops,
        ratio_to_fp32=ratio,
        slower_than_fp32=slower,
        bandwidth_gb_per_s=3350.4,
        matmul_shape=[8192] * 3,
        matmul_ms={"median": 10.0, "iqr": iqr, "n": 20},
        triad_ms={"median": 10.0, "iqr": 0.1, "n": 20},
    )


def test_doctor_prints_one_json_object(cli):
    code, out, _ = cli("doctor", "--format", "json")
    record = json.loads(out)
    assert code == 0 and record["schema"] == 1 and record["settings"] is None
    assert {row["precision"] for row in record["precisions"]} >= {"fp32", "bf16-mixed", "fp16-mixed"}


def test_doctor_prints_a_table_without_figures(cli):
    code, out, err = cli("doctor")
    assert code == 0 and "bf16-mixed" in out and "Recommended" in out
    assert "TFLOP/s" not in out and err == ""


def test_measure_fills_the_json_and_says_so_on_stderr(cli, small):
    code, out, err = cli("doctor", "--measure", "--device", "cpu", "--format", "json")
    rows = {row["precision"]: row for row in json.loads(out)["precisions"]}
    assert code == 0 and err.splitlines() == ["measuring each precision, which takes about ten seconds"]
    assert rows["fp32"]["ratio_to_fp32"] == 1.0
    for name in ("fp32", "bf16-mixed", "fp16-mixed", "bf16-true"):
        assert rows[name]["measured_tflops"] > 0 and rows[name]["matmul_ms"]["n"] >= 1
    assert rows["fp8-mixed"]["measured_tflops"] is None and rows["fp8-mixed"]["reason"]


def test_measure_quietly_says_nothing(cli, small):
    _, out, err = cli("doctor", "--measure", "--device", "cpu", "--quiet")
    assert "TFLOP/s" in out and err == ""


def test_the_table_shows_rate_ratio_and_bandwidth():
    lines = shown(h200(bf16_mixed=rate(712.3, ratio=13.94))).splitlines()
    (bf16,) = [line for line in lines if "bf16-mixed" in line]
    assert [cell.strip() for cell in bf16.split("│")[2:6]] == ["native", "712", "13.9", "3,350"]
    (fp8,) = [line for line in lines if "fp8-mixed" in line]
    assert fp8.split("│")[3].strip() == "-"


def test_the_caption_says_how_it_was_measured():
    text = " ".join(shown(h200(bf16_mixed=rate(700.0, iqr=0.5))).split())
    assert "Medians of 20 rounds, interquartile ranges within 5.0% of them. torch 2.13.0, 8 threads." in text
    assert "128 MiB" in text


def test_nothing_measured_is_still_a_table():
    assert "NVIDIA H200" in shown(h200())


def test_a_native_precision_measured_slower_than_fp32_is_said_in_words():
    record = h200(fp16_mixed=rate(40.0, ratio=0.82, slower=True), tf32=rate(400.0))
    assert doctor.remarks(record) == ["fp16-mixed is native here and measured slower than fp32: 0.82 times its rate."]


def test_what_could_not_be_measured_is_said_with_its_reason():
    record = h200(tf32=Rate(reason="OutOfMemoryError: CUDA out of memory"))
    assert doctor.remarks(record) == ["tf32 was not measured: OutOfMemoryError: CUDA out of memory."]


def test_what_nothing_computes_is_said_once_in_its_row():
    source = "tf32 is a mode of GPU matrix units"
    rates = Rates(settings={}, by_precision={"tf32": Rate(reason=source)})
    cpu = cpu_hardware("", machine="x86_64", torch_bf16=None)
    record = doctor_record(cpu, rates)
    assert source in {row["source"] for row in record["precisions"]}
    assert doctor.remarks(record) == []


def test_a_busy_machine_is_said():
    record = h200()
    record["settings"] |= {"load_average": 9.0, "cores": 16}
    assert doctor.remarks(record)[0].startswith("The machine was busy before (load average 9.0 on 16 cores)")
    record["settings"]["load_average"] = 8.0
    assert doctor.remarks(record) == []


def test_the_row_of_a_rate_is_all_of_it():
    (row,) = [row for row in h200(tf32=rate(1.0))["precisions"] if row["precision"] == "tf32"]
    assert asdict(rate(1.0)).items() <= row.items()
