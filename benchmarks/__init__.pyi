from .attacks.listed import attack as attack
from .certificates.listed import certificate as certificate
from .data.dataset import Dataset as Dataset
from .data.dataset import Split as Split
from .data.dataset import load_data as load_data
from .estimator import Answer as Answer
from .estimator import Query as Query
from .evaluation.doubts import doubt as doubt
from .evaluation.evidence import Evidence as Evidence
from .evaluation.sandwich import evaluate as evaluate
from .models.evaluate import evaluate_model as evaluate_model
from .plugins import load_plugin as load_plugin
from .probes.listed import Probe as Probe
from .probes.listed import Subject as Subject
from .probes.listed import probe as probe
from .records.column import Column as Column
from .records.reader import read_arrays as read_arrays
from .records.record import Record as Record
from .runs.run_all import run_all as run_all
from .suites.evaluation import Evaluation as Evaluation
from .suites.schema import Suite as Suite
from .suites.schema import load_suite as load_suite
from .tables.compare import compare_rows as compare_rows
from .tables.leaderboard import leaderboard as leaderboard
from .tables.leaderboard import load as load

__version__: str
