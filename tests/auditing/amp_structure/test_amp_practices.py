"""The good practices around scalers and CUDA."""

import pytest


def named(found, name):
    return [(p.line, p.end_line) for p in found if p.name == name]


def test_a_fallback_that_is_told_is_credited_with_its_lines(practices):
    text = """
    import torch
    from torch.cuda.amp import GradScaler


    def set_up(use_amp):
        scaler = GradScaler() if (use_amp and torch.cuda.is_available()) else None
        if use_amp and not torch.cuda.is_available():
            print("no CUDA: going on in float32")
            use_amp = False
        return scaler, use_amp
    """
    assert named(practices(text), "guarded-cuda-fallback") == [(7, 10)]


@pytest.mark.parametrize(
    ("line", "credited"),
    [
        ("scaler = torch.amp.GradScaler('cuda', enabled=torch.cuda.is_available())", True),
        ("scaler = torch.amp.GradScaler('cuda')", False),
        ("scaler = torch.amp.GradScaler('cuda', enabled=use_amp)", False),
    ],
)
def test_a_flag_may_ask_for_cuda(practices, line, credited):
    text = f"import torch\n\nprint(torch.cuda.is_available())\n{line}\n"
    assert bool(named(practices(text), "guarded-cuda-fallback")) == credited


@pytest.mark.parametrize(
    ("answer", "credited"),
    [
        ("return {'error': 'CUDA not available', 'speedup': None}", True),
        ("raise RuntimeError('this needs a GPU')", True),
        ("return Outcome(reason='no CUDA on this machine')", True),
        ("return None", False),
        ("return {'loss': 0.0}", False),
        ("pass", False),
    ],
)
def test_missing_cuda_may_be_answered_with_a_result(practices, answer, credited):
    text = f"import torch\n\n\ndef f():\n    if not torch.cuda.is_available():\n        {answer}\n    return 1\n"
    assert bool(named(practices(text), "cuda-check-with-error-result")) == credited


@pytest.mark.parametrize(
    ("line", "credited"),
    [
        ("x = env['scaler'].get_scale() if (env['amp'] and env['scaler'] is not None) else None", True),
        ("x = env['scaler'] is not None and env['scaler'].get_scale()", True),
        ("x = None if env['scaler'] is None else env['scaler'].get_scale()", True),
        ("x = env['scaler'].get_scale() if env['other'] is not None else None", False),
        ("x = env['scaler'].get_scale() if env['scaler'] is None else None", False),
        ("x = env['scaler'].get_scale()", False),
    ],
)
def test_a_none_check_counts_where_it_guards_that_scaler(practices, line, credited):
    found = practices(f"def f(env):\n    {line}\n    return x\n")
    assert bool(named(found, "scaler-none-check")) == credited
    assert all(p.covers == ("NON001",) for p in found if p.name == "scaler-none-check")


ORDER = """
def step(scaler, optimizer, params, clip_grad_norm_):
    {0}
    {1}
    scaler.step(optimizer)
    scaler.update()
"""


def test_unscale_before_clip_needs_that_order(practices):
    unscale, clip = "scaler.unscale_(optimizer)", "clip_grad_norm_(params, 1.0)"
    assert named(practices(ORDER.format(unscale, clip)), "unscale-before-clip") == [(3, 4)]
    assert named(practices(ORDER.format(clip, unscale)), "unscale-before-clip") == []


@pytest.mark.parametrize(
    ("line", "credited"),
    [
        ("s = torch.amp.GradScaler('cuda', enabled=dtype == torch.float16)", True),
        ("s = torch.amp.GradScaler('cuda', enabled=(word == 'fp16'))", True),
        ("s = torch.amp.GradScaler('cuda') if dtype == torch.float16 else None", True),
        ("s = torch.amp.GradScaler('cuda', enabled=dtype == torch.bfloat16)", False),
        ("s = torch.amp.GradScaler('cuda', enabled=use_amp)", False),
    ],
)
def test_a_scaler_may_follow_the_dtype(practices, line, credited):
    text = f"import torch\n\n\ndef f(dtype, word, use_amp):\n    {line}\n    return s\n"
    assert bool(named(practices(text), "scaler-enabled-by-dtype")) == credited
