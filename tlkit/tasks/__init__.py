"""Tasks: a head, its supervised loss, its metrics and its predictions."""

from tlkit.tasks.base import Task
from tlkit.tasks.classification import Classification
from tlkit.tasks.diagnosis import Diagnosis
from tlkit.tasks.hashing import Hashing
from tlkit.tasks.places import PlaceRegression
from tlkit.tasks.regression import Regression

__all__ = ["Classification", "Diagnosis", "Hashing", "PlaceRegression", "Regression", "Task"]
