"""The public names by group; where a module lies is nobody's contract."""

from ._version import __version__ as __version__

# Train a cohort
from .config.options import RecipeOptions as RecipeOptions
from .config.options import TransferOptions as TransferOptions
from .config.training_config import MutualKDConfig as MutualKDConfig
from .experiments.experiment import Experiment as Experiment
from .experiments.run_suite import SuiteArm as SuiteArm
from .experiments.launch import launch as launch
from .peers.cohort import Cohort as Cohort
from .peers.cohort_output import CohortOutput as CohortOutput
from .peers.loading import LoadedPeer as LoadedPeer
from .peers.spec import PeerSpec as PeerSpec
from .peers.step_times import time_peers as time_peers
from .training.trainer import MutualKDTrainer as MutualKDTrainer
from .training.ways import WAYS as WAYS

# Who teaches, and the loss: tensors only
from .distillation.cohort_batch import CohortBatch as CohortBatch
from .distillation.cohort_batch import PeerMasks as PeerMasks
from .distillation.label_alignment import align_labels as align_labels
from .distillation.losses import kl_to_target as kl_to_target
from .distillation.losses import softened_log_probs as softened_log_probs
from .distillation.losses import teacher_log_probs as teacher_log_probs
from .distillation.losses import transfer_loss as transfer_loss
from .distillation.objective import Objective as Objective
from .distillation.objective import ObjectiveLoss as ObjectiveLoss
from .distillation.roles import assign_roles as assign_roles
from .distillation.roles import confidence_scores as confidence_scores
from .distillation.roles import loss_scores as loss_scores
from .distillation.roles import margin_scores as margin_scores
from .distillation.rule_fitting import total_of as total_of
from .distillation.teacher_rules import AllRule as AllRule
from .distillation.teacher_rules import BestRule as BestRule
from .distillation.teacher_rules import ClassRule as ClassRule
from .distillation.teacher_rules import FixedRule as FixedRule
from .distillation.teacher_rules import GatedRule as GatedRule
from .distillation.teacher_rules import MeanRule as MeanRule
from .distillation.teacher_rules import TeacherRule as TeacherRule
from .distillation.teacher_rules import make_rule as make_rule
from .distillation.teacher_sources import SOURCES as SOURCES
from .distillation.teacher_sources import EmaSource as EmaSource
from .distillation.teacher_sources import FrozenSource as FrozenSource
from .distillation.teacher_sources import LiveSource as LiveSource
from .distillation.teacher_sources import TableSource as TableSource
from .distillation.teacher_sources import TeacherSource as TeacherSource

# Rows
from .data.collator import IdentifiedRows as IdentifiedRows
from .data.collator import RoleTaggingCollator as RoleTaggingCollator
from .data.collator import identified as identified
from .data.inputs import Inputs as Inputs
from .data.masks import IGNORE as IGNORE
from .data.role_table import RoleTable as RoleTable
from .data.splits import Splits as Splits
from .data.splits import load_splits as load_splits
from .data.views import SharedView as SharedView
from .data.audio import Sound as Sound
from .data.audio import as_flac as as_flac
from .data.audio import read_sound as read_sound
from .data.audio import resampled as resampled

# Tasks
from .tasks.base import Evaluator as Evaluator
from .tasks.base import Task as Task
from .config.task_options import ClassOptions as ClassOptions
from .config.task_options import SeveralLabelsOptions as SeveralLabelsOptions
from .tasks.image_classification.options import ImageOptions as ImageOptions
from .tasks.audio_classification.options import AudioOptions as AudioOptions
from .tasks.semantic_segmentation.options import SegmentationOptions as SegmentationOptions
from .tasks.video_classification.options import VideoOptions as VideoOptions
from .tasks.video_saliency.options import SaliencyOptions as SaliencyOptions
from .tasks.registry import TASKS as TASKS
from .tasks.registry import make_task as make_task
from .reports.task_words import TaskWords as TaskWords
from .tasks.audio_classification.task import AudioClassification as AudioClassification
from .tasks.classification.task import Classification as Classification
from .tasks.classification.words import classification_words as classification_words
from .tasks.image_classification.task import ImageClassification as ImageClassification
from .tasks.semantic_segmentation.metrics import SegmentationScores as SegmentationScores
from .tasks.semantic_segmentation.outputs import dense_log_probs as dense_log_probs
from .tasks.semantic_segmentation.task import SemanticSegmentation as SemanticSegmentation
from .tasks.semantic_segmentation.task import scored_labels as scored_labels
from .tasks.text_classification.task import TextClassification as TextClassification
from .tasks.video_classification.task import VideoClassification as VideoClassification
from .tasks.video_saliency.data.clip_rows import ClipRows as ClipRows
from .tasks.video_saliency.data.clip_rows import load_clip as load_clip
from .tasks.video_saliency.data.clips import ClipPolicy as ClipPolicy
from .tasks.video_saliency.data.clips import clip_frames as clip_frames
from .tasks.video_saliency.data.fixations import fixation_density as fixation_density
from .tasks.video_saliency.data.layouts import load_videos as load_videos
from .tasks.video_saliency.metrics.functions import cc as cc
from .tasks.video_saliency.model.auto import VideoSaliencyConfig as VideoSaliencyConfig
from .tasks.video_saliency.model.auto import VideoSaliencyModel as VideoSaliencyModel
from .tasks.video_saliency.model.auto import VideoSaliencyProcessor as VideoSaliencyProcessor
from .tasks.video_saliency.model.modeling_video_saliency import VideoSaliencyOutput as VideoSaliencyOutput
from .tasks.video_saliency.predict import predict_video as predict_video
from .tasks.video_saliency.streaming import Streaming as Streaming
from .tasks.video_saliency.streaming import cut_distance as cut_distance
from .tasks.video_saliency.streaming import stream_saliency as stream_saliency
from .tasks.video_saliency.task import VideoSaliency as VideoSaliency

# Runs: what they found, to the Hub and back
from .export.onnx import ExportCheck as ExportCheck
from .export.onnx import export_peers as export_peers
from .hub.calls import Patience as Patience
from .hub.names import PushTarget as PushTarget
from .hub.push import PushReport as PushReport
from .hub.push import PushedPeer as PushedPeer
from .hub.push import push_run as push_run
from .hub.space.build import write_space as write_space
from .reports.figures import png as png
from .reports.html_report import compare_runs as compare_runs
from .reports.html_report import write_report as write_report
from .reports.model_card import EXAMPLES as EXAMPLES
from .reports.model_card import write_cards as write_cards
from .reports.closing_table import markdown as markdown
from .reports.closing_table import verdict as verdict
from .reports.run_record import RunRecord as RunRecord
from .reports.run_record import read_run as read_run
from .reports.results import Difference as Difference
from .reports.terminal import percent as percent
from .reports.terminal import render as render
from .scoring.scout.ranking import complement as complement
from .scoring.scout.ranking import ensemble_right as ensemble_right

# Files that appear whole or not at all
from .files import staged as staged
from .files import whole as whole
from .files import write_bytes as write_bytes
from .files import write_json as write_json
from .files import write_text as write_text

# Errors
from .errors import ConfigError as ConfigError
from .errors import DataError as DataError
from .errors import ExportError as ExportError
from .errors import HubError as HubError
from .errors import LabelError as LabelError
from .errors import MutualKDError as MutualKDError
from .errors import OutputFolderError as OutputFolderError
from .errors import PeerError as PeerError
from .errors import ResumeError as ResumeError
