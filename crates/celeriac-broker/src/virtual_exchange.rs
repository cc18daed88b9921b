//! Exchanges on brokers that have only queues: which queues a routing key leads to.
