"""An experiment and what is searched over it, for tests that write sweep specs."""

EXPERIMENT = """\
name: toy
data: {dataset: toy, validation: ['*_g01_*']}
prototypes: {num_clusters: [8], warmup_epoch: 10}
pretrain: {epochs: 20, schedule: cosine, learning_rate: 0.03}
evaluation: {retrieval: {enabled: false, validate_every_epochs: 2}}
"""
SEARCH = """\
search:
  pretrain.optimizer: [sgd, adam]
  pretrain.learning_rate: {min: 1e-3, max: 0.3, log: true}
  pretrain.momentum: {min: 0.5, max: 0.99, when: {pretrain.optimizer: sgd}}
  saccade.margin_h: {min: 0, max: 24, step: 4}
  prototypes.num_clusters: [[8], [16, 24], []]
"""
