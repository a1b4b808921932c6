"""A run that waits for what its cluster does not have says so, and goes on when it is there."""

from rayfactory.cluster.shortage import missing
from rayfactory.config import Config, EmbeddingConfig

ON_CPU = Config()
ON_GPU = Config(embedding=EmbeddingConfig(device="gpu", gpu_share=0.25))


def test_a_cluster_that_has_what_it_takes_lacks_nothing():
    assert missing(ON_CPU, 0.5, {"CPU": 4.0}, {"CPU": 0.5}) == ""
    assert missing(ON_GPU, 0.5, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}) == ""


def test_no_cpu_at_all():
    assert "no node of the cluster has CPUs" in missing(ON_CPU, 0.5, {"memory": 1e9}, {})
    assert "ray start --address" in missing(ON_CPU, 0.5, {}, {})


def test_no_gpu_for_an_encoder_on_a_gpu():
    said = missing(ON_GPU, 0.5, {"CPU": 4.0}, {"CPU": 4.0})
    assert "0.25 GPU" in said
    assert "embedding.device=gpu" in said
    assert missing(ON_CPU, 0.5, {"CPU": 4.0}, {"CPU": 4.0}) == ""


def test_cpus_that_others_hold():
    said = missing(ON_CPU, 0.5, {"CPU": 4.0}, {"CPU": 0.25})
    assert "3.75 of the cluster's 4 CPUs are held by others" in said
    assert "ray status" in said
    assert "4 of the cluster's 4" in missing(ON_CPU, 0.5, {"CPU": 4.0}, {})
