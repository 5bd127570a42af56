//! A private RabbitMQ server.
