"""README's Python code runs, top to bottom, as one who reads it would run it."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_every_code_block_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes into runs/
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 7
    namespace = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert namespace["report"].loss.shape == ()
    assert namespace["report"].multipliers["closer"].shape == (10,)
    assert namespace["certificate"].holds.shape == (10,)
    assert namespace["fitted"].best.step > 0
    assert abs(namespace["x"] - 1).max() < 1e-2  # the heavy ball's minimizer
    assert namespace["solution"].converged.all()
    exact, fast = (namespace["mean_error"](namespace[name]) for name in ("exact", "fast"))
    assert exact < 0.05 * (25 / 255) ** 2
    assert exact < fast < 0.8 * (25 / 255) ** 2
    assert all(bool((leaf != 0).any()) for leaf in namespace["slope"].kernels)
    examples = re.findall(r"\| `(run\(.*\))` \|$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(examples) == 22
    for example in examples:
        found = eval(example, namespace)
        assert bool(found.is_finite), example
        assert found.converged, example
        assert float(abs(found.state.x - namespace["truth"]).max()) < 0.4, example
