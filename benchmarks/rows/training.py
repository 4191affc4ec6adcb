"""Training steps: forces, noise, and EGNN; the optimiser is left out, it is the same for both sides."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig
from basinet.models.model import Model, build_model
from basinet.structures.batch import Batch
from rows import molecules
from rows.published_egnn import PublishedEGNN
from rows.stock import ET_128X8, fresh_et, torchmd_net_noise_of, torchmd_net_of
from rows.timing import Line, NotMeasured, compared, not_measured, race

Loss = Callable[[nn.Module, Batch], Tensor]
PEER = "torchmd-net ET, eager"


def force_step(rounds: int) -> list[Line]:
    """Time a step on labelled energies and forces: a second derivative."""
    what, reach = (
        "force-training step, ET 128x8, 32 x 20 atoms",
        {"eager": "1.5", "kernels": "3 (6)"},
    )
    batch = labelled(molecules.batch_of(molecules.of_size(20, 32)))
    model = fresh_et(ET_128X8, ["energy", "forces"]).train()
    try:
        stock = torchmd_net_of(model).train()
    except NotMeasured as why:
        return [not_measured(what, form, PEER, target, why) for form, target in reach.items()]
    note = agreement(model, our_forces, stock, stock_forces, batch)
    times = race(steps(model, our_forces, batch) | {PEER: lambda: step(stock, stock_forces, batch)}, rounds)
    return [
        compared(Line(what, form, PEER, target, note=note), times[form], times[PEER]) for form, target in reach.items()
    ]


def denoising_step(rounds: int) -> list[Line]:
    """Time a step that predicts the noise of noisy molecules by a head of vectors: a single derivative."""
    what, reach = (
        "denoising step, ET 128x8, 32 x 20 atoms",
        {"eager": "1.3", "kernels": "2.5 (5)"},
    )
    batch = labelled(molecules.batch_of(molecules.of_size(20, 32)))
    model = fresh_et(ET_128X8, ["noise"]).train()
    try:
        stock = torchmd_net_noise_of(model).train()
    except NotMeasured as why:
        return [not_measured(what, form, PEER, target, why) for form, target in reach.items()]
    note = agreement(model, our_noise, stock, stock_noise, batch)
    times = race(steps(model, our_noise, batch) | {PEER: lambda: step(stock, stock_noise, batch)}, rounds)
    return [
        compared(Line(what, form, PEER, target, note=note), times[form], times[PEER]) for form, target in reach.items()
    ]


def egnn_step(rounds: int) -> list[Line]:
    """Time a force-training step of 3D-EMGP's network in our form and in the published one, which concatenates."""
    peer = "3D-EMGP's layer form (own re-implementation)"
    batch = labelled(molecules.batch_of(molecules.of_size(20, 32)))
    torch.manual_seed(0)
    model = build_model(build_backbone(EGNNConfig()), ["energy", "forces"]).train()
    published = PublishedEGNN(model).train()
    # Energies of fresh weights are millions: float32 says little about which network it is.
    exact = copy.deepcopy(model).double()
    note = agreement(exact, our_forces, PublishedEGNN(exact).train().double(), published_forces, in_double(batch))
    times = race(steps(model, our_forces, batch) | {peer: lambda: step(published, published_forces, batch)}, rounds)
    what, reach = "force-training step, EGNN 128x7, 32 x 20 atoms", {"eager": "1.5 (1.9)"}
    return [
        compared(Line(what, form, peer, target, note=note), times[form], times[peer]) for form, target in reach.items()
    ]


def steps(model: Model, loss: Loss, batch: Batch) -> dict[str, Callable[[], None]]:
    """Return our step in PyTorch, and by kernels where there are some, if their gradients are the same."""
    by_kernels = copy.deepcopy(model)
    forms = {"eager": (lambda: step(model, loss, batch), model)}
    if by_kernels.backbone.use_kernels("native") is None:
        forms["kernels"] = (lambda: step(by_kernels, loss, batch), by_kernels)
    exact = copy.deepcopy(model).double()
    step(exact, loss, in_double(batch))
    reference, off = gradient(exact), dict[str, float]()
    for form, (run, of) in forms.items():
        run()
        off[form] = float((gradient(of) - reference).norm() / reference.norm())
        if not off[form] < max(1e-4, 4 * off["eager"]):
            raise NotMeasured(f"the gradient of form {form} is {off[form]:.1e} off, the eager one {off['eager']:.1e}")
    return {form: run for form, (run, _) in forms.items()}


def gradient(model: nn.Module) -> Tensor:
    """Return the gradient of a step in all parameters, float64."""
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def in_double(batch: Batch) -> Batch:
    """Return a batch in float64."""
    labels = {name: value.double() for name, value in batch.labels.items()}
    return batch.replace(positions=batch.positions.double(), labels=labels)


def labelled(batch: Batch) -> Batch:
    """Return a batch with labels drawn at random."""
    generator = torch.Generator().manual_seed(0)
    forces = torch.randn(batch.positions.shape, generator=generator)
    return batch.replace(labels={"energy": torch.randn(batch.n_molecules).double(), "forces": forces})


def step(model: nn.Module, loss: Loss, batch: Batch) -> None:
    """Do all of a training step but the optimiser's."""
    model.zero_grad()
    loss(model, batch).backward()


def our_forces(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of our network."""
    assert isinstance(model, Model)
    found = model(batch, ["energy", "forces"])
    return of_forces(found["energy"], found["forces"], batch)


def stock_forces(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of torchmd-net."""
    energy, forces = model(batch.atomic_numbers, batch.positions.detach().clone(), batch.molecule)
    return of_forces(energy[:, 0], forces, batch)


def published_forces(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of a network that gives energies."""
    positions = batch.positions.detach().requires_grad_()
    energy = model(batch.replace(positions=positions))
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    return of_forces(energy, -gradient, batch)


def of_forces(energy: Tensor, forces: Tensor, batch: Batch) -> Tensor:
    """Return the mean squared errors of energies and forces."""
    return (energy - batch.labels["energy"]).square().mean() + (forces - batch.labels["forces"]).square().mean()


def our_noise(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of our network; the noise is the same at every step, drawing it takes no time to speak of."""
    assert isinstance(model, Model)
    return (model(batch, ["noise"])["noise"] - batch.labels["forces"]).square().mean()


def stock_noise(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of torchmd-net, whose output for vectors is asked before it is summed over the atoms."""
    features = model.representation_model(batch.atomic_numbers, batch.positions.detach(), batch.molecule)
    noise = model.output_model.pre_reduce(*features)
    return (noise - batch.labels["forces"]).square().mean()


def agreement(ours: nn.Module, our_loss: Loss, theirs: nn.Module, their_loss: Loss, batch: Batch) -> str:
    """Return how far the losses and the norms of their gradients in the parameters are apart.

    Raises:
        NotMeasured: so far that they are not of the same network.
    """
    losses, norms = [], []
    for model, loss in ((ours, our_loss), (theirs, their_loss)):
        step(model, loss, batch)
        losses.append(float(loss(model, batch)))
        norms.append(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None))
    apart = max(abs(x - y) / abs(y) for x, y in (losses, norms))
    if apart > 1e-3:
        raise NotMeasured(f"the two networks disagree: losses {losses}, gradients {norms}")
    return f"loss and squared gradient agree to {apart:.0e}"
