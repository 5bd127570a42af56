"""What Celery and Dramatiq do on the same RabbitMQ and Redis: tasks that do nothing, acknowledged, their result in Redis.

`other_queues.py celery|dramatiq N` enqueues N tasks, waits for every result and prints seconds as JSON. The workers are
started by fleet.py with this file as their module.
"""
import json
import os
import sys
import time
import urllib.parse

AMQP, REDIS = os.environ["DIORAMA_AMQP_URL"], os.environ["DIORAMA_REDIS_URL"]


def celery_app():
    import celery
    made = celery.Celery("other_queues", broker=AMQP, backend=REDIS + "/1")
    made.conf.update(task_acks_late=True, worker_prefetch_multiplier=64, task_serializer="json", result_serializer="json",
                     broker_transport_options={"confirm_publish": True}, broker_connection_retry_on_startup=True,
                     worker_send_task_events=False, worker_disable_rate_limits=True)

    @made.task(name="nothing")
    def nothing(number):
        return number
    return made, nothing


def dramatiq_actor():
    import dramatiq
    from dramatiq.brokers.rabbitmq import RabbitmqBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend
    broker = RabbitmqBroker(url=AMQP, confirm_delivery=True)
    # What is not needed here and costs time is off; results are kept, as Celery's are.
    broker.add_middleware(Results(backend=RedisBackend(url=REDIS + "/2"), store_results=True))
    dramatiq.set_broker(broker)

    @dramatiq.actor(actor_name="nothing", queue_name="dramatiq-bench")
    def nothing(number):
        return number
    return broker, nothing


WHICH = os.environ["OTHER_QUEUE"]
if WHICH == "celery":
    app, task = celery_app()
else:
    broker, task = dramatiq_actor()


def main(count):
    import redis
    started = time.monotonic()
    if WHICH == "celery":
        for number in range(count):
            task.delay(number)
        database = 1
    else:
        for number in range(count):
            task.send(number)
        database = 2
    enqueued = time.monotonic()
    address = urllib.parse.urlparse(REDIS)
    results = redis.Redis(address.hostname, address.port, database)
    while results.dbsize() < count:     # every result has a key of its own
        time.sleep(0.02)
    print(json.dumps({"enqueue": enqueued - started, "all": time.monotonic() - started}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
