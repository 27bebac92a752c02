"""The storages: equals, each the whole `ITaskStorage` contract in one file."""
