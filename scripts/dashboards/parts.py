"""What the dashboards are built of: variables, selectors, panels in a grid of 24 columns."""
from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

# Where there is no namespace, outside of Kubernetes, `.*` takes series without that label too.
FLEET = 'namespace=~"$namespace"'
POOL = f'{FLEET}, pool=~"$pool"'
RUN = f'{FLEET}, run=~"$run"'
RATE = "[$__rate_interval]"
DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
PALETTE = dashboard.FieldColorModeId.PALETTE_CLASSIC


def of_pools(metric):
    """A pool's gauge: every coordinator reports the same one, so a sum would count it once for each of them."""
    return f"max by (namespace, pool) ({metric}{{{POOL}}})"


def busy(selector):
    """The share of time in which a device has work. A rate would be too low while a worker is younger than the window."""
    return f"clamp_min(deriv(diorama_worker_device_seconds_total{{{selector}}}[15m]), 0)"


def quantile(q, by, metric, selector):
    labels = ", ".join(["le", *by])
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}{RATE})))"


def new_dashboard(uid, title, description, variables):
    """A dashboard with the data source and the fleet as its first variables, and links to the others."""
    source = builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
    links = builders.DashboardLink("Diorama").type(dashboard.DashboardLinkType.DASHBOARDS).tags(["diorama"])
    made = (builders.Dashboard(title).uid(uid).description(description).tags(["diorama"]).readonly()
            .time("now-3h", "now").refresh("30s").timezone("browser")
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .link(links.keep_time(True).include_vars(True).as_dropdown(True))
            .with_variable(source)
            .with_variable(variable("namespace", "Namespace", "diorama_build_info")))
    for each in variables:
        made.with_variable(each)
    return made


def variable(name, label, metric, multi=True):
    """One of a label's values; any number of them, or all, where `multi`."""
    query = {"query": f"label_values({metric}, {name})", "refId": name}
    made = (builders.QueryVariable(name).label(label).datasource(DATASOURCE).query(query)
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(dashboard.VariableSort.ALPHABETICAL_ASC))
    if multi:
        everything = dashboard.VariableOption(selected=True, text="All", value="$__all")
        made.multi(True).include_all(True).all_value(".*").current(everything)
    return made


def row(title):
    return builders.Row(title)


def graph(title, unit, queries, description="", *, span=8, stacked=False, most=None):
    """Lines over time; `queries` are pairs of PromQL and legend."""
    panel = timeseries.Panel()
    common_parts(panel, title, unit, description, span, height=8)
    panel.color_scheme(builders.FieldColor().mode(PALETTE)).min(0).line_width(1).fill_opacity(10)
    panel.show_points(models.VisibilityMode.NEVER)
    panel.tooltip(common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI).sort(models.SortOrder.DESCENDING))
    panel.legend(common.VizLegendOptions().show_legend(True).display_mode(models.LegendDisplayMode.LIST)
                 .placement(models.LegendPlacement.BOTTOM))
    if stacked:
        panel.stacking(common.StackingConfig().mode(models.StackingMode.NORMAL)).fill_opacity(40)
    if most is not None:
        panel.max(most)
    for query, legend in queries:
        panel.with_target(prometheus.Dataquery().expr(query).legend_format(legend).range())
    return panel


def figure(title, unit, query, description="", *, warn_from=None, span=4):
    """One number, as it is now, orange from `warn_from` on."""
    panel = stat.Panel()
    common_parts(panel, title, unit, description, span, height=4)
    steps = [dashboard.Threshold(value=None, color="green")]
    if warn_from is not None:
        steps.append(dashboard.Threshold(value=warn_from, color="orange"))
    panel.thresholds(builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps))
    panel.color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel.graph_mode(models.BigValueGraphMode.AREA).color_mode(models.BigValueColorMode.VALUE).no_value("–")
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.with_target(prometheus.Dataquery().expr(query).range())
    return panel


def timeline(title, queries, meanings, description="", *, span=12):
    """States over time; `meanings` says what each value is called and how it is coloured."""
    panel = statetimeline.Panel()
    common_parts(panel, title, "none", description, span, height=6)
    names = {value: dashboard.ValueMappingResult(text=text, color=color) for value, (text, color) in meanings.items()}
    panel.mappings([dashboard.ValueMap(options=names)]).merge_values(True).row_height(0.8)
    panel.show_value(models.VisibilityMode.NEVER)
    for query, legend in queries:
        panel.with_target(prometheus.Dataquery().expr(query).legend_format(legend).range())
    return panel


def listing(title, columns, labels, description="", *, span=24, height=8, empty="–"):
    """A table as it is now: a line for each set of `labels`, and a column for each of `columns`, which are triples of a
    heading, a unit and PromQL; without a heading the value is of no interest. `empty` stands where there is nothing."""
    panel = table.Panel()
    common_parts(panel, title, "none", description, span, height)
    panel.no_value(empty)
    renamed, hidden = {}, {"Time": True}
    for index, (heading, unit, query) in enumerate(columns):
        ref = chr(ord("A") + index)
        field = "Value" if len(columns) == 1 else f"Value #{ref}"
        query = f"group by ({', '.join(labels)}) ({query})" if heading is None else query
        panel.with_target(prometheus.Dataquery().expr(query).instant().ref_id(ref)
                          .format(PromQueryFormat.TABLE))
        if heading is None:
            hidden[field] = True
        else:
            renamed[field] = heading
            panel.override_by_name(heading, [dashboard.DynamicConfigValue(id_val="unit", value=unit)])
    order = {label: index for index, label in enumerate(labels)}
    organize = {"renameByName": renamed, "excludeByName": hidden, "indexByName": order}
    panel.transformations([dashboard.DataTransformerConfig(id_val="merge", options={}),
                           dashboard.DataTransformerConfig(id_val="organize", options=organize)])
    return panel


def common_parts(panel, title, unit, description, span, height):
    panel.title(title).description(description).unit(unit).span(span).height(height).datasource(DATASOURCE)
