from engine.testing import PluginContract
class TestPink(PluginContract):
    plugin = "pink"
class TestMcts(PluginContract):
    plugin = "mcts"
class TestSae(PluginContract):
    plugin = "sae"
class TestTrain(PluginContract):
    plugin = "train"
class TestDataset(PluginContract):
    plugin = "dataset"
class TestEmbedded(PluginContract):
    plugin = "embedded"
class TestOpenai(PluginContract):
    plugin = "openai"
class TestFixture(PluginContract):
    plugin = "fixture"
