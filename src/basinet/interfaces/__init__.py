"""Use basinet from Python, ASE, scikit-learn and TorchSim; :mod:`basinet` has the public names."""
