"""How hard each term of an objective pulls at the backbone: its weighted gradient, at the start and in trained models.

Prints one table for fresh weights, begun as a pre-training begins, and one for each model file.

    python benchmarks/term_gradients.py RECIPE DATA [MODEL ...]

``value`` is the mean of a term; ``gradient`` the norm of its weighted gradient in all parameters of the backbone,
averaged over batches of the recipe's size; ``share`` that over the sum of all terms; ``joint`` the norm of the gradient
of all batches together, smaller by what is noise of batches; ``cosine`` the angle of the latter with that of the first
term.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from basinet.backbones.build import build_backbone
from basinet.commands.recipe import PretrainRecipe, SourceConfig, load_recipe
from basinet.commands.statistics import chunks, label_statistics, start_from_statistics
from basinet.commands.train.mixture import read_data
from basinet.data.store.store import MoleculeStore
from basinet.models.checkpoint import load_model
from basinet.models.model import Model, build_model
from basinet.objectives.base import Objective, total_loss
from basinet.structures.batch import Batch


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--batches", type=int, default=16)
    given = parser.parse_args()
    recipe = load_recipe(PretrainRecipe, given.recipe, [], data=str(given.data))
    objective = recipe.objective.build()
    store, _ = read_data(SourceConfig(path=given.data), recipe.units, needs_bonds=True)
    batches = draw(store, objective, given.batches, recipe.training.batch_size)
    report("fresh weights", fresh(recipe, objective, store), objective, batches)
    for path in given.models:
        report(str(path), load_model(path).model, objective, batches)


def draw(store: MoleculeStore, objective: Objective, n_batches: int, size: int) -> list[Batch]:
    """Return random batches of molecules that the objective is for."""
    used = np.flatnonzero(np.concatenate([objective.uses(b).numpy() for b in store_chunks(store)]))
    rng = np.random.default_rng(0)
    return [store.gather(rng.choice(used, size, replace=False)) for _ in range(n_batches)]


def store_chunks(store: MoleculeStore) -> list[Batch]:
    """Return all molecules of a store in batches."""
    return list(chunks(store, np.arange(len(store))))


def fresh(recipe: PretrainRecipe, objective: Objective, store: MoleculeStore) -> Model:
    """Return a model as a pre-training starts with it."""
    torch.manual_seed(recipe.training.seed)
    model = build_model(build_backbone(recipe.model), objective.requires | {"energy"})
    start_from_statistics(model, label_statistics(store, np.arange(len(store)), 0))
    return model


def report(name: str, model: Model, objective: Objective, batches: list[Batch]) -> None:
    """Print the table of one model."""
    model.train()
    rows = {term: term_gradient(term, model, objective, batches) for term in objective.weights}
    total = sum(norm for _, norm, _ in rows.values())
    first = next(iter(rows.values()))[2]
    print(f"\n{name}\n{'term':12} {'weight':>7} {'value':>8} {'gradient':>9} {'share':>6} {'joint':>8} {'cosine':>7}")
    for term, (value, norm, joint) in rows.items():
        cosine = torch.nn.functional.cosine_similarity(joint, first, dim=0)
        print(
            f"{term:12} {objective.weights[term]:7.3g} {value:8.3f} {norm:9.3f} {norm / total:6.1%} "
            f"{float(joint.norm()):8.3f} {float(cosine):7.2f}"
        )


def term_gradient(term: str, model: Model, objective: Objective, batches: list[Batch]) -> tuple[float, float, Tensor]:
    """Return mean value, mean norm of the weighted gradient, and mean gradient of one term."""
    parameters = list(model.backbone.parameters())
    generator = torch.Generator().manual_seed(0)
    values: list[float] = []
    gradients: list[Tensor] = []
    for batch in batches:
        sums, counts = objective.sums(model, batch, generator), objective.counts(batch)
        only = {key: count if key == term else 0.0 for key, count in counts.items()}
        loss = total_loss(objective, sums, only)
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([g.flatten() for g in found]))
        values.append(float(loss.detach()) / objective.weights[term])
    norms = [float(g.norm()) for g in gradients]
    return float(np.mean(values)), float(np.mean(norms)), torch.stack(gradients).mean(0)


if __name__ == "__main__":
    main()
