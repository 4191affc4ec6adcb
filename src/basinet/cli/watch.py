"""What a command shows of a run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from basinet.training.fit import Progress


class Watcher:
    """Moves a bar with the steps of a run, and keeps the last validation in sight."""

    def __init__(self, show: Any) -> None:
        self.show = show
        self.note = ""

    def __call__(self, step: "Progress") -> None:
        """Show a step."""
        if step.validation is not None:
            shown = {"loss": step.validation["loss"]}
            if "force_mae" in step.validation:
                shown["force MAE, meV/Å"] = 1000 * step.validation["force_mae"]
            if "stability" in step.validation:
                shown["stable, ps"] = step.validation["stability"]
            self.note = "validation " + ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
        self.show(step.step, step.n_steps, f"loss {step.loss:.4g} {self.note}")
