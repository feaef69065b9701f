"""The Ray clusters that trials run on."""
